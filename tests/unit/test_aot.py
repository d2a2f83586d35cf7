"""The compiled kernels: what must hold of each, and that the rules notice when it does not. Needs no GPU."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from pathlib import Path

import pytest

import build
import flashmla
from aot import checks, compiling, cubin, embed, header, paths
from aot.__main__ import compile_all
from dsl_kernels.combine import config as combine
from dsl_kernels.core.params import Named
from dsl_kernels.core.targets import HOPPER
from dsl_kernels.core.variant import Elements
from dsl_kernels.dense_decode.config import BF16, FP16
from dsl_kernels.dense_decode.config import Variant as DenseDecode
from dsl_kernels.plan import config as plan
from dsl_kernels.sparse_decode.config import PRODUCER, TURNS
from dsl_kernels.sparse_decode.config import Variant as SparseDecode
from dsl_kernels.variants import FAMILIES, VARIANTS

MEGABYTE = 2**20
NAMES = [variant.name for variant in VARIANTS]
TARGETS = {variant.target.name for variant in VARIANTS}


def has_compiler() -> bool:
    try:
        importlib.metadata.version(compiling.COMPILER)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@pytest.fixture(scope="session")
def facts() -> dict[str, dict]:
    """Facts of every kernel by name: of the sources as they are, or without a compiler of the last build."""
    if has_compiler():
        keys = compiling.keys(VARIANTS)
        stale = [(v, k) for v, k in zip(VARIANTS, keys, strict=True) if not compiling.cached(k, paths.CACHE)]
        if stale:
            compile_all(stale, 1, paths.CACHE)
        found = [compiling.read_facts(key, paths.CACHE) for key in keys]
    else:
        if not paths.MANIFEST.exists():
            pytest.skip(f"{compiling.COMPILER} is not installed (extra [aot]) and no compiled kernels are at hand")
        found = json.loads(paths.MANIFEST.read_text())["kernels"]
    return {kernel["name"]: kernel for kernel in found}


@pytest.fixture(scope="session")
def generated() -> Path:
    """The folder of what is embedded."""
    if not paths.MANIFEST.exists():
        pytest.skip("the kernels are not embedded: run `python -m aot build`")
    return paths.GENERATED


@pytest.fixture(scope="session")
def table() -> dict[str, dict]:
    """The GPU rows of the built library's kernel table by name."""
    rows = {row["name"]: row for row in flashmla.info()["kernels"] if row["target"] in TARGETS}
    if not rows:
        pytest.skip("this libflashmla was built without GPU kernels")
    return rows


@pytest.mark.parametrize("variant", VARIANTS, ids=NAMES)
def test_a_kernel_keeps_every_rule(facts, variant):
    if "instructions" not in facts[variant.name] and cubin.disassembler() is None:
        pytest.skip("the disassembler is not installed (nvidia-cuda-nvdisasm)")
    assert checks.problems(variant, facts[variant.name]) == []


DECODE = DenseDecode(HOPPER, BF16, 576, 512)
ONE_OF_EACH = [DECODE, *(family.variants[0] for family in FAMILIES.values() if family.name != "dense_decode")]


def good(variant, instructions=(), **changes) -> dict:
    """Facts that keep every rule, but for the changes."""
    counts = {name: allowed.start for name, allowed in variant.instructions.items()} | dict(instructions)
    return {"elf_abi": 7, "registers": 168, "stack": 0, "local": 0, "instructions": counts} | changes


@pytest.mark.parametrize("variant", ONE_OF_EACH, ids=lambda variant: variant.family)
def test_the_rules_are_quiet_about_a_good_kernel(variant):
    assert checks.problems(variant, good(variant)) == []


@pytest.mark.parametrize("variant", ONE_OF_EACH, ids=lambda variant: variant.family)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stack": 16}, "16 bytes of stack"),
        ({"local": 8}, "8 bytes of local"),
        ({"instructions": {"LDL": 2}}, "2 LDL, expected 0"),
        ({"instructions": {"STL": 1}}, "1 STL, expected 0"),
        ({"elf_abi": 8}, "ELF ABI version 8"),
        ({"instructions": {cubin.SYSTEM_ATOMICS: 1}}, "atomics of system scope"),
    ],
)
def test_a_planted_fact_is_a_problem_of_any_kernel(variant, changes, words):
    others = {what: value for what, value in changes.items() if what != "instructions"}
    [problem] = checks.problems(variant, good(variant, changes.get("instructions", {}), **others))
    assert words in problem
    assert problem.startswith(f"{variant.name}: ")


@pytest.mark.parametrize(
    ("instructions", "words"),
    [
        ({"HGMMA": 39}, "39 HGMMA, expected 40"),
        ({"HGMMA": 0}, "0 HGMMA"),
        ({"UTMALDG": 0}, "0 UTMALDG"),
        ({"WARPGROUP.DEPBAR": 40}, "40 WARPGROUP.DEPBAR, expected 3"),
        ({"WARPGROUP.DEPBAR": 2}, "2 WARPGROUP.DEPBAR"),
    ],
)
def test_a_planted_count_is_a_problem_of_dense_decode(instructions, words):
    [problem] = checks.problems(DECODE, good(DECODE, instructions))
    assert words in problem


@pytest.mark.parametrize(
    ("geometry", "products"), [((576, 512), 40), ((512, 512), 36), ((320, 256), 24), ((160, 128), 14)]
)
def test_the_products_follow_from_the_geometry(geometry, products):
    variant = DenseDecode(HOPPER, BF16, *geometry)
    assert checks.problems(variant, good(variant, {"HGMMA": products})) == []
    [problem] = checks.problems(variant, good(variant, {"HGMMA": products + 1}))
    assert f"expected {products}" in problem


def test_a_kernel_that_nobody_looked_into_is_a_problem():
    facts = {name: value for name, value in good(DECODE).items() if name != "instructions"}
    [problem] = checks.problems(DECODE, facts)
    assert "not inspected" in problem


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_takes_the_listed_parameters(facts, name):
    listed = FAMILIES[facts[name]["family"]].params
    assert facts[name]["params"] == [p.size for p in listed]
    assert len(listed) == len({p.name for p in listed})
    assert sum(p.size for p in listed) <= 4096, "what a CUDA 12.0 driver passes"


@pytest.mark.parametrize("variant", VARIANTS, ids=NAMES)
def test_what_a_line_says_is_true_of_the_compiled_kernel(facts, variant):
    compiled = facts[variant.name]
    assert variant.misfits == []
    assert compiled["shared_bytes"] == variant.shared_bytes <= variant.target.shared_bytes
    assert compiled["threads"] == variant.threads
    assert compiled["registers"] * compiled["threads"] <= variant.target.registers
    if variant.family == "dense_decode":
        assert compiled["registers"] == variant.target.registers_at_entry(variant.threads)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"slots": 4}, "bytes of shared memory, a block can have 232448"),
        ({"q_steps_in_registers": 20}, "bytes of shared memory"),
        ({"q_steps_in_registers": 32, "slots": 4}, "bytes of shared memory"),
        ({"qk_registers": 192}, "more registers than an SM has"),
        ({"qk_registers": 183}, "registers come by eights"),
        ({"qk_registers": 152, "pv_registers": 176}, "too few registers for Q and S"),
        ({"qk_registers": 240, "pv_registers": 128}, "too few registers for O"),
        ({"slots": 12}, "a loader is too many pieces ahead"),
        ({"early_steps": 30}, "no k-step of Q comes before P is handed over"),
        ({"cluster": 3}, "clusters are of 1 or 2"),
        ({"cluster": 4}, "clusters are of 1 or 2"),
        ({"elements": Elements("bfloat16", "float16", "bfloat16")}, "elements of one type"),
    ],
    ids=str,
)
def test_a_variant_beyond_the_chip_does_not_fit(change, why):
    assert DECODE.misfits == []
    assert any(why in misfit for misfit in dataclasses.replace(DECODE, **change).misfits)


@pytest.mark.parametrize(
    ("geometry", "change"),
    [
        ((320, 256), {"slots": 6, "q_steps_in_registers": 16}),
        ((320, 256), {"q_steps_in_registers": 17}),
        ((512, 512), {"slots": 4}),
        ((640, 512), {}),
        ((320, 320), {"q_steps_in_registers": 16}),
        ((168, 128), {"q_steps_in_registers": 8}),
    ],
    ids=str,
)
def test_a_geometry_beyond_the_chip_does_not_fit(geometry, change):
    assert DenseDecode(HOPPER, BF16, *geometry, **change).misfits


def test_8_bit_products_are_of_whole_slices_of_codes():
    exact = next(v for v in VARIANTS if v.name == "dense_decode_bf16_160_cluster1_fp8")
    products = dataclasses.replace(exact, fp8_products=True, slots=4, qk_registers=136, pv_registers=184)
    assert products.misfits == ["each half of V is made of whole slices of codes"]


@pytest.mark.parametrize(
    ("variant", "why"),
    [
        (DenseDecode(HOPPER, BF16, 512, 512, any_page=True, gathers=True, **PRODUCER), "no kernel of the family"),
        (SparseDecode(HOPPER, BF16, 512, 512, kv_format="fp8", **PRODUCER), "no codes with one scale"),
        (SparseDecode(HOPPER, BF16, 512, 512, kv_format="model1", **PRODUCER | {"slots": 4}), "three slots"),
        (SparseDecode(HOPPER, BF16, 576, 512, **TURNS), "for RoPE parts of codes"),
        (SparseDecode(HOPPER, BF16, 512, 512, kv_format="model1", **TURNS), "for RoPE parts of codes"),
    ],
    ids=lambda x: getattr(x, "name", x),
)
def test_a_producer_that_no_kernel_has_does_not_fit(variant, why):
    assert any(why in misfit for misfit in variant.misfits)


def test_names_are_unique_and_say_what_the_kernel_is():
    assert len(NAMES) == len(set(NAMES))
    assert DenseDecode(HOPPER, FP16, 576, 512, cluster=2).name == "dense_decode_fp16_576_cluster2"
    assert DenseDecode(HOPPER, BF16, 320, 256, any_page=True).name == "dense_decode_bf16_320_cluster1_pages"
    named = DenseDecode(HOPPER, BF16, 320, 256, any_page=True, batch_invariant=True).name
    assert named == "dense_decode_bf16_320_cluster1_pages_invariant"
    assert combine.Variant(HOPPER, Elements(out="bfloat16"), d_v=512).name == "combine_bf16_512"
    assert plan.Variant(HOPPER).name == "plan"
    assert Elements("bfloat16", "float16", "bfloat16").short == "bf16_fp16"


def test_there_is_a_kernel_for_every_call_that_is_allowed():
    """Dtypes, geometries, page sizes and clusters; and the special comes before the general."""
    decode, merged = FAMILIES["dense_decode"].variants, FAMILIES["combine"].variants
    for elements in (BF16, FP16):
        for d_qk, d_v in ((576, 512), (512, 512), (320, 256), (160, 128)):
            for cluster in (1, 2):
                wanted = (elements, d_qk, d_v, cluster, "bf16")
                for invariant in (False, True):
                    kind = [v for v in decode if v.batch_invariant == invariant]
                    fitting = [v for v in kind if (v.elements, v.d_qk, v.d_v, v.cluster, v.kv_format) == wanted]
                    loads = [(v.any_page, v.gathers) for v in fitting]
                    by_tma = [(False, False), (True, False)] if d_qk == 576 else [(True, False)]
                    assert loads == by_tma + [(True, True)] * (cluster == 1 and not invariant)
            assert combine.Variant(HOPPER, Elements(out=elements.out), d_v=d_v) in merged


@pytest.mark.parametrize("name", NAMES)
def test_an_embedded_kernel_loads_on_cuda_12(generated, table, name):
    image = (generated / f"{name}.cubin").read_bytes()
    assert image[:4] == b"\x7fELF"
    assert image[cubin.ELF_ABI] == 7
    assert table[name]["min_driver"] == 12000
    found = image in Path(flashmla.info()["library_path"]).read_bytes()
    assert found, "the library holds another one: run `python3 build.py lib`"


def test_the_library_has_every_kernel_and_its_facts(facts, table):
    assert sorted(table) == sorted(NAMES)
    for name, row in table.items():
        for fact in ("target", "shared_bytes", "threads", "registers"):
            assert row[fact] == facts[name][fact]
        assert row["operation"] == facts[name]["family"]
        types = {dtype for dtype in facts[name]["elements"].values() if dtype}
        assert row["dtype"] in (types or {"any"})


def test_registers_are_the_cubins_own_words(generated, table, monkeypatch):
    """Their metadata says so: a build needs no disassembler for the kernel table."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(cubin, "disassembler", lambda: None)
    for name, row in table.items():
        assert row["registers"] == cubin.facts((generated / f"{name}.cubin").read_bytes())["registers"] > 0


def test_the_library_is_small():
    assert Path(flashmla.info()["library_path"]).stat().st_size <= 10 * MEGABYTE


def test_what_is_embedded_was_made_from_these_sources(facts, generated):
    if not has_compiler():
        pytest.skip(f"{compiling.COMPILER} is not installed (extra [aot])")
    manifest = json.loads(paths.MANIFEST.read_text())
    assert {kernel["name"]: kernel["sha256"] for kernel in manifest["kernels"]} == {
        name: kernel["sha256"] for name, kernel in facts.items()
    }, "run `python -m aot build`"
    assert (generated / "kernel_table.c").read_text() == embed.table(manifest["kernels"])
    assert (generated / "kernels.S").read_text() == embed.assembly(manifest["kernels"])


def test_the_launchers_header_is_the_generated_one():
    assert paths.PARAMS_HEADER.read_text() == header.kernel_params(), "run `python -m aot params`"


def test_a_constant_has_one_value(monkeypatch):
    other = dataclasses.replace(FAMILIES["plan"], name="other", constants={"UNIT": 128})
    monkeypatch.setitem(FAMILIES, "other", other)
    with pytest.raises(ValueError, match="UNIT of other is 128, of another operation 64"):
        header.kernel_params()


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_the_launchers_structs_are_laid_out_naturally(tmp_path, family):
    """Each field at the next multiple of its own alignment, in the order of the list, and of the listed size."""
    offset, lines = 0, []
    name = f"fm_{family.name}_kernel_params"
    for p in family.params:
        alignment = 64 if p.ctype == "tensormap" else p.size  # cuda.h: CUtensorMap is aligned to 64 bytes
        offset = -(-offset // alignment) * alignment
        lines.append(f'_Static_assert(offsetof({name}, {p.name}) == {offset}, "offset of {p.name}");')
        lines.append(f'_Static_assert(sizeof((({name} *)0)->{p.name}) == {p.size}, "size of {p.name}");')
        offset += p.size
    source = tmp_path / "layout.c"
    source.write_text("\n".join(['#include "cuda/kernel_params.h"', *lines]))
    build.run([build.compiler(), "-std=c11", "-Werror", "-fsyntax-only", f"-I{build.SOURCE}", source], title="layout")


def test_named_parameters_are_read_by_name_only():
    listed = FAMILIES["plan"].params
    named = Named(listed, range(len(listed)))
    assert [getattr(named, p.name) for p in listed] == list(range(len(listed)))
    with pytest.raises(AttributeError, match="batches"):
        _ = named.batches
    with pytest.raises(ValueError, match="argument"):
        Named(listed, range(3))
    listed = FAMILIES["dense_decode"].params
    assert Named(listed, range(len(listed) - 3)).block_table == 0, "maps travel apart"
