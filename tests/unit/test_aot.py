"""The compiled kernels: what must hold of each, and that the rules notice when it does not. Needs no GPU."""

from __future__ import annotations

import copy
import importlib.metadata
import json
from pathlib import Path

import pytest

import build
import flashmla
from aot import checks, compiling, embed, inspect_cubin, paths
from aot.__main__ import compile_all
from dsl_kernels import budget, params
from dsl_kernels.variants import VARIANTS, Variant

MEGABYTE = 2**20
REGISTERS_OF_AN_SM = 65_536
ELF_ABI = 8  # byte of an ELF file: EI_ABIVERSION
NAMES = [variant.name for variant in VARIANTS]


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
        source, compiler = compiling.source_digest(), compiling.compiler_version()
        keys = [compiling.key_of(variant, source, compiler) for variant in VARIANTS]
        stale = [(v, k) for v, k in zip(VARIANTS, keys, strict=True) if not compiling.cached(k, paths.CACHE)]
        if stale:
            compile_all(stale, jobs=1)
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
    rows = {row["name"]: row for row in flashmla.info()["kernels"] if row["target"] == "sm_90a"}
    if not rows:
        pytest.skip("this libflashmla was built without GPU kernels")
    return rows


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_keeps_every_rule(facts, name):
    if "instructions" not in facts[name] and inspect_cubin.tools() is None:
        pytest.skip("the disassembler is not installed (nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm)")
    assert checks.problems([facts[name]]) == []


GOOD = {
    "name": "some_kernel",
    "operation": "dense_decode",
    "d_qk": 576,
    "elf_abi": 7,
    "registers": 168,
    "stack": 0,
    "local": 0,
    "shared_bytes": budget.SHARED_BYTES_LIMIT,
    "instructions": {"HGMMA": 40, "UTMALDG": 30, "WARPGROUP.DEPBAR": 3, "LDL": 0, "STL": 0},
}


def spoiled(operation="dense_decode", instructions=(), **changes) -> dict:
    kernel = copy.deepcopy(GOOD) | {"operation": operation} | changes
    kernel["instructions"] |= dict(instructions)
    return kernel


def test_the_rules_are_quiet_about_a_good_kernel():
    assert checks.problems([spoiled()]) == []
    other = spoiled("plan", {"HGMMA": 0, "UTMALDG": 0, "WARPGROUP.DEPBAR": 0})
    assert checks.problems([other]) == [], "only dense_decode multiplies"


@pytest.mark.parametrize("operation", ["dense_decode", "combine", "plan", "merge_states"])
@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        ({"stack": 16}, "16 bytes of stack"),
        ({"local": 8}, "8 bytes of local"),
        ({"instructions": {"LDL": 2}}, "2 LDL"),
        ({"instructions": {"STL": 1}}, "1 STL"),
        ({"elf_abi": 8}, "ELF ABI version 8"),
        ({"shared_bytes": budget.SHARED_BYTES_LIMIT + 1024}, "bytes of shared memory"),
    ],
)
def test_a_planted_fact_is_a_problem_of_any_kernel(operation, kernel, words):
    allowed = {} if operation == "dense_decode" else {"HGMMA": 0, "UTMALDG": 0, "WARPGROUP.DEPBAR": 0}
    instructions = allowed | kernel.get("instructions", {})
    planted = spoiled(operation, instructions, **{what: n for what, n in kernel.items() if what != "instructions"})
    [problem] = checks.problems([spoiled(), planted])
    assert words in problem
    assert problem.startswith("some_kernel: ")


@pytest.mark.parametrize(
    ("instructions", "words"),
    [
        ({"HGMMA": 39}, "39 HGMMA, expected 40"),
        ({"HGMMA": 0}, "0 HGMMA"),
        ({"UTMALDG": 0}, "no UTMALDG"),
        ({"WARPGROUP.DEPBAR": 40}, "40 WARPGROUP.DEPBAR, expected 3: serialised wgmma"),
        ({"WARPGROUP.DEPBAR": 2}, "2 WARPGROUP.DEPBAR"),
    ],
)
def test_a_planted_count_is_a_problem_of_dense_decode(instructions, words):
    [problem] = checks.problems([spoiled(instructions=instructions)])
    assert words in problem


@pytest.mark.parametrize(("d_qk", "products"), [(576, 40), (512, 36), (320, 24)])
def test_the_products_follow_from_the_geometry(d_qk, products):
    assert checks.problems([spoiled(instructions={"HGMMA": products}, d_qk=d_qk)]) == []
    [problem] = checks.problems([spoiled(instructions={"HGMMA": products + 1}, d_qk=d_qk)])
    assert f"expected {products}" in problem


def test_a_kernel_that_nobody_looked_into_is_a_problem():
    [problem] = checks.problems([{name: value for name, value in GOOD.items() if name != "instructions"}])
    assert "not inspected" in problem


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_takes_the_listed_parameters(facts, name):
    listed = params.BY_OPERATION[facts[name]["operation"]]
    assert facts[name]["params"] == [p.size for p in listed]
    assert len(listed) == len({p.name for p in listed})
    assert sum(p.size for p in listed) <= 4096, "what a CUDA 12.0 driver passes"


@pytest.mark.parametrize("variant", VARIANTS, ids=NAMES)
def test_the_budget_is_that_of_the_compiled_kernel(facts, variant):
    compiled = facts[variant.name]
    assert budget.fits(variant)
    assert compiled["shared_bytes"] <= budget.SHARED_BYTES_LIMIT
    if "registers" in compiled:
        assert compiled["registers"] * compiled["threads"] <= REGISTERS_OF_AN_SM
    if variant.operation == "dense_decode":
        assert compiled["shared_bytes"] == budget.shared_bytes(variant)
        assert compiled["threads"] == 384
        assert compiled.get("registers", budget.REGISTERS_AT_ENTRY) == budget.REGISTERS_AT_ENTRY


@pytest.mark.parametrize(
    "change",
    [
        {"slots": 4},
        {"q_steps_in_registers": 20},
        {"q_steps_in_registers": 32, "slots": 4},
        {"registers": (192, 160)},
        {"registers": (183, 160)},
        {"registers": (152, 176)},
        {"registers": (240, 128)},
        {"cluster": 3},
        {"cluster": 4},
    ],
    ids=str,
)
def test_a_variant_beyond_the_chip_does_not_fit(change):
    assert budget.fits(Variant("dense_decode", "bfloat16", 576, 512))
    assert not budget.fits(Variant("dense_decode", "bfloat16", 576, 512, **change))


@pytest.mark.parametrize(
    ("geometry", "change"),
    [
        ((320, 256), {"slots": 6, "q_steps_in_registers": 16}),
        ((320, 256), {"q_steps_in_registers": 17}),
        ((512, 512), {"slots": 4}),
        ((640, 512), {}),
        ((320, 320), {"q_steps_in_registers": 16}),
    ],
    ids=str,
)
def test_a_geometry_beyond_the_chip_does_not_fit(geometry, change):
    assert not budget.fits(Variant("dense_decode", "bfloat16", *geometry, **change))


def test_names_are_unique_and_say_what_the_kernel_is():
    assert len(NAMES) == len(set(NAMES))
    assert Variant("dense_decode", "float16", 576, 512, cluster=2).name == "dense_decode_fp16_576_cluster2"
    assert Variant("dense_decode", "bfloat16", 320, 256, any_page=True).name == "dense_decode_bf16_320_cluster1_pages"
    assert Variant("combine", "bfloat16", d_v=512).name == "combine_bf16_512"
    assert Variant("merge_states", "float32").name == "merge_states_fp32"
    assert Variant("plan").name == "plan"


def test_there_is_a_kernel_for_every_call_that_is_allowed():
    """Dtypes, geometries, page sizes and clusters; and the special comes before the general."""
    decode = [v for v in VARIANTS if v.operation == "dense_decode"]
    for dtype in ("bfloat16", "float16"):
        for d_qk, d_v in ((576, 512), (512, 512), (320, 256)):
            for cluster in (1, 2):
                fitting = [v for v in decode if (v.dtype, v.d_qk, v.d_v, v.cluster) == (dtype, d_qk, d_v, cluster)]
                assert [v.any_page for v in fitting] == ([False, True] if d_qk == 576 else [True])
            assert Variant("combine", dtype, d_v=d_v) in VARIANTS
    assert {v.dtype for v in VARIANTS if v.operation == "merge_states"} == {"bfloat16", "float16", "float32"}


@pytest.mark.parametrize("name", NAMES)
def test_an_embedded_kernel_loads_on_cuda_12(generated, table, name):
    cubin = (generated / f"{name}.cubin").read_bytes()
    assert cubin[:4] == b"\x7fELF"
    assert cubin[ELF_ABI] == 7
    assert table[name]["min_driver"] == 12000
    found = cubin in Path(flashmla.info()["library_path"]).read_bytes()
    assert found, "the library holds another one: run `python3 build.py lib`"


def test_the_library_has_every_kernel_and_its_facts(facts, table):
    assert sorted(table) == sorted(NAMES)
    for name, row in table.items():
        for fact in ("operation", "dtype", "shared_bytes", "threads"):
            assert row[fact] == facts[name][fact]
        assert row["registers"] == facts[name].get("registers", 0)


def test_the_library_is_small():
    assert Path(flashmla.info()["library_path"]).stat().st_size <= 10 * MEGABYTE


def test_what_is_embedded_was_made_from_these_sources(facts, generated):
    if not has_compiler():
        pytest.skip(f"{compiling.COMPILER} is not installed (extra [aot])")
    manifest = json.loads(paths.MANIFEST.read_text())
    assert manifest["source"] == compiling.source_digest(), "run `python -m aot build`"
    assert {kernel["name"]: kernel["sha256"] for kernel in manifest["kernels"]} == {
        name: kernel["sha256"] for name, kernel in facts.items()
    }
    assert (generated / "kernel_table.c").read_text() == embed._table(manifest["kernels"])
    assert (generated / "kernels.S").read_text() == embed._assembly(manifest["kernels"])


def test_the_launchers_header_is_the_generated_one():
    assert paths.PARAMS_HEADER.read_text() == embed.params_header(), "run `python -m aot params`"


@pytest.mark.parametrize("operation", sorted(params.BY_OPERATION))
def test_the_launchers_structs_are_laid_out_naturally(tmp_path, operation):
    """Each field at the next multiple of its own alignment, in the order of the list, and of the listed size."""
    offset, lines = 0, []
    name = f"fm_{operation}_kernel_params"
    for p in params.BY_OPERATION[operation]:
        alignment = 64 if p.ctype == "tensormap" else p.size  # cuda.h: CUtensorMap is aligned to 64 bytes
        offset = -(-offset // alignment) * alignment
        lines.append(f'_Static_assert(offsetof({name}, {p.name}) == {offset}, "offset of {p.name}");')
        lines.append(f'_Static_assert(sizeof((({name} *)0)->{p.name}) == {p.size}, "size of {p.name}");')
        offset += p.size
    source = tmp_path / "layout.c"
    source.write_text("\n".join(['#include "cuda/kernel_params.h"', *lines]))
    build.run([build.compiler(), "-std=c11", "-Werror", "-fsyntax-only", f"-I{build.SOURCE}", source], title="layout")


def test_named_parameters_are_read_by_name_only():
    listed = params.PLAN
    named = params.Named(listed, range(len(listed)))
    assert [getattr(named, p.name) for p in listed] == list(range(len(listed)))
    with pytest.raises(AttributeError, match="batches"):
        _ = named.batches
    with pytest.raises(ValueError, match="argument"):
        params.Named(listed, range(3))
    assert params.Named(params.DENSE_DECODE, range(len(params.DENSE_DECODE) - 2)).block_table == 0, "maps travel apart"
