"""The AOT build around the compiler: keys, cache, refusals and generated text, with a compiler that is made up."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import made_up_cubin
from aot import __main__ as command
from aot import compiling, cubin, embed, header, paths
from buildtools import tree
from dsl_kernels.core.params import Param
from dsl_kernels.core.targets import HOPPER
from dsl_kernels.dense_decode.config import BF16
from dsl_kernels.dense_decode.config import Variant as DenseDecode
from dsl_kernels.plan.config import Variant as Plan
from dsl_kernels.variants import FAMILIES, VARIANTS

VARIANT = VARIANTS[0]
COMPILER = "made-up compiler 1.0"


def image(variant, listed=None) -> bytes:
    """A cubin whose entry takes the listed parameters."""
    listed = FAMILIES[variant.family].params if listed is None else listed
    return made_up_cubin.image(f"flashmla_{variant.name}_0", [p.size for p in listed], threads=variant.threads)


def build(**given):
    return command.build(**{"jobs": 1, "variants": VARIANTS, "cache": paths.CACHE} | given)


def compile_here(stale, jobs, cache):
    """In this process, where the made-up compiler is."""
    assert jobs == 1
    for variant, key in stale:
        compiling.compile_variant(variant, key, cache)


@pytest.fixture
def made(monkeypatch, tmp_path) -> list[str]:
    """A tree of its own with the made-up compiler; the names of what was compiled, in order."""
    compiled: list[str] = []

    def compile_one(variant):
        compiled.append(variant.name)
        return image(variant), variant.shared_bytes

    monkeypatch.setattr(compiling, "_compile", compile_one)
    monkeypatch.setattr(compiling, "compiler_version", lambda: COMPILER)
    monkeypatch.setattr(cubin, "disassembler", lambda: None)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(paths, "LOCK", tmp_path / "build" / "lock")
    monkeypatch.setattr(paths, "GENERATED", tmp_path / "generated")
    monkeypatch.setattr(paths, "MANIFEST", tmp_path / "generated" / "kernels.json")
    monkeypatch.setattr(command, "compile_all", compile_here)
    return compiled


@pytest.mark.parametrize("suffix", [".cubin", ".json"])
def test_half_a_result_is_none(made, suffix):
    build()
    [half] = paths.CACHE.glob(f"{VARIANT.name}-*{suffix}")
    half.unlink()
    build()
    assert made == [variant.name for variant in (*VARIANTS, VARIANT)]


@pytest.mark.parametrize("suffix", [".cubin", ".json"])
def test_a_build_that_is_stopped_leaves_no_half_file(made, monkeypatch, suffix):
    """The disk is full in the middle of a file."""
    write = Path.write_bytes

    def fill_the_disk(path, content):
        if suffix in path.suffixes and path.parent == paths.CACHE:
            write(path, content[: len(content) // 2])
            raise OSError("No space left on device")
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fill_the_disk)
        with pytest.raises(OSError, match="No space"):
            build()
    assert not list(paths.CACHE.glob("*.json")), "facts come last"
    build()
    assert made == [VARIANT.name, *(variant.name for variant in VARIANTS)]


@pytest.mark.usefixtures("made")
def test_one_build_waits_for_another(monkeypatch):
    inside = threading.Lock()

    def compile_alone(stale, jobs, cache):
        assert inside.acquire(blocking=False), "two builds at once"
        time.sleep(0.05)
        compile_here(stale, jobs, cache)
        inside.release()

    monkeypatch.setattr(command, "compile_all", compile_alone)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda jobs: build(jobs=jobs), (1, 1))
    assert first == second


def test_the_lock_is_that_of_build_py():
    (name,) = re.findall(
        r'\(BUILD / "(\w+)"\)\.open\("w"\) as lock', (paths.AOT.parent / "buildtools" / "tree.py").read_text()
    )
    assert paths.ROOT / "build" / name == paths.LOCK


def test_facts_are_completed_when_the_disassembler_has_come(made, monkeypatch):
    build()
    assert '"instructions"' not in paths.MANIFEST.read_text()
    monkeypatch.setattr(cubin, "disassembler", lambda: "nvdisasm")
    monkeypatch.setattr(cubin, "count_instructions", lambda *_: {"LDL": 0})
    assert all(kernel["instructions"] == {"LDL": 0} for kernel in build())
    monkeypatch.setattr(cubin, "disassembler", lambda: None)
    assert all(kernel["instructions"] == {"LDL": 0} for kernel in build()), "and stay complete"
    assert len(made) == len(VARIANTS)


def test_a_second_build_compiles_nothing_and_changes_no_file(made, capsys):
    kernels = build()
    assert made == [variant.name for variant in VARIANTS]
    assert f"compiling {len(VARIANTS)} of {len(VARIANTS)} with {COMPILER}" in capsys.readouterr().out
    times = {path: path.stat().st_mtime_ns for path in paths.GENERATED.glob("kernel*") if path.suffix != ".json"}
    assert build() == kernels
    assert len(made) == len(VARIANTS)
    assert capsys.readouterr().out == "", "and says nothing"
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(times) == 2


@pytest.mark.usefixtures("made")
def test_a_build_embeds_every_kernel_and_forgets_old_ones():
    paths.GENERATED.mkdir()
    old = paths.GENERATED / "dense_decode_of_yesterday.cubin"
    old.write_bytes(b"")
    build()
    assert not old.exists()
    assert {path.stem for path in paths.GENERATED.glob("*.cubin")} == {variant.name for variant in VARIANTS}
    manifest = json.loads(paths.MANIFEST.read_text())
    assert manifest["compiler"] == COMPILER
    assert [kernel["name"] for kernel in manifest["kernels"]] == [variant.name for variant in VARIANTS]


def test_a_variant_over_the_budget_stops_the_build_before_it_compiles(made):
    large = DenseDecode(HOPPER, BF16, 576, 512, cluster=2, slots=4)
    with pytest.raises(SystemExit, match=rf"beyond what the chip has .*\n{large.name}: \d+ bytes of shared memory"):
        build(variants=(*VARIANTS, large))
    assert made == []


def test_a_build_of_some_kernels_embeds_those_alone(made, monkeypatch, tmp_path):
    """As a copy of the sources does, with a cache of its own or another's."""
    some, elsewhere = [VARIANTS[1].name, VARIANTS[-1].name], tmp_path / "elsewhere"
    monkeypatch.setattr(sys, "argv", ["aot", "build", "--jobs", "1", "--cache", str(elsewhere), "--only", *some])
    assert command.main() == 0
    assert made == some
    assert sorted(path.stem for path in paths.GENERATED.glob("*.cubin")) == sorted(some)
    assert len(list(elsewhere.iterdir())) == 4
    assert not paths.CACHE.exists()
    monkeypatch.setattr(sys, "argv", ["aot", "build", "--only", "dense_decode_of_tomorrow"])
    with pytest.raises(SystemExit):
        command.main()


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_a_kernel_with_the_listed_parameters_is_taken(made, variant):
    facts = compiling.compile_variant(variant, "key", paths.CACHE)
    assert facts["entry"] == f"flashmla_{variant.name}_0"
    assert facts["params"] == [p.size for p in FAMILIES[variant.family].params]
    assert made == [variant.name]


def without_one(listed):
    return listed[:-1]


def with_one_more(listed):
    return (*listed, Param("surprise", "int32_t", ""))


def in_another_order(listed):
    return (*listed[1:], listed[0])


def of_another_size(listed):
    return (*listed[:-1], Param(listed[-1].name, "int64_t", ""))


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("change", [without_one, with_one_more, in_another_order, of_another_size])
def test_a_kernel_with_other_parameters_is_refused(monkeypatch, change):
    variant = Plan(HOPPER)
    other = image(variant, change(FAMILIES["plan"].params))
    monkeypatch.setattr(compiling, "_compile", lambda _: (other, variant.shared_bytes))
    with pytest.raises(RuntimeError, match="plan: the compiled kernel has params"):
        compiling.compile_variant(variant, "key", paths.CACHE)


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(("fact", "threads", "shared_bytes"), [("threads", 128, 2048), ("shared_bytes", 256, 4096)])
def test_a_kernel_that_is_not_what_its_line_says_is_refused(monkeypatch, fact, threads, shared_bytes):
    variant = Plan(HOPPER)
    sizes = [p.size for p in FAMILIES["plan"].params]
    other = made_up_cubin.image("flashmla_plan_0", sizes, threads=threads)
    monkeypatch.setattr(compiling, "_compile", lambda _: (other, shared_bytes))
    with pytest.raises(RuntimeError, match=f"plan: the compiled kernel has {fact} "):
        compiling.compile_variant(variant, "key", paths.CACHE)


KERNEL = {
    "name": "dense_decode_bf16_576_cluster2_pages",
    "family": "dense_decode",
    "target": "sm_90a",
    "arch": 90,
    "elements": {"q": "bfloat16", "cache": "float16", "out": None},
    "kv_format": "v32",
    "d_qk": 576,
    "d_v": 512,
    "features": ["any_page"],
    "batch_invariant": True,
    "cluster": 2,
    "threads": 384,
    "shared_bytes": 232448,
    "sha256": "0" * 64,
    "entry": "flashmla_entry",
    "params": [8, 4],
    "elf_abi": 7,
    "registers": 168,
}


def test_a_row_of_the_generated_table():
    text = embed.table([KERNEL])
    row = re.search(r"\{\.name.*\}", text, re.DOTALL)[0]
    fields = dict(re.findall(r"\.(\w+) = (\{[^}]*\}|[^,{}]+)", row))
    assert fields == {
        "name": '"dense_decode_bf16_576_cluster2_pages"',
        "family": "FM_KERNEL_DENSE_DECODE",
        "target": '"sm_90a"',
        "arch": "90",
        "elements": "{.q = FM_BF16, .cache = FM_FP16, .out = FM_ANY_DTYPE}",
        "d_qk": "576",
        "d_v": "512",
        "kv_format": "FLASHMLA_KV_V32",
        "features": "FM_DENSE_DECODE_ANY_PAGE",
        "cluster": "2",
        "batch_invariant": "true",
        "min_driver": "12000",
        "registers": "168",
        "shared_bytes": "232448",
        "threads": "384",
        "params": "dense_decode_params",
        "num_params": "2",
        "entry": '"flashmla_entry"',
        "image": "fm_cubin_dense_decode_bf16_576_cluster2_pages",
    }
    assert "static const fm_param dense_decode_params[2] = FM_DENSE_DECODE_PARAMS;" in text
    assert ".features = 0" in embed.table([KERNEL | {"features": []}])
    assert "batch_invariant" not in embed.table([KERNEL | {"batch_invariant": False}])
    assert "_Static_assert(2 <= FM_MOST_KERNELS, " in embed.table([KERNEL, KERNEL])


def test_a_kernel_for_newer_drivers_says_so():
    assert ".min_driver = 13000" in embed.table([KERNEL | {"elf_abi": 8}])
    with pytest.raises(KeyError):
        embed.table([KERNEL | {"elf_abi": 9}])


def test_the_generated_assembly_embeds_a_hidden_aligned_image():
    text = embed.assembly([KERNEL])
    symbol = "fm_cubin_dense_decode_bf16_576_cluster2_pages"
    wanted = f".hidden {symbol}\n.globl {symbol}\n.balign 64\n{symbol}:\n.incbin "
    assert wanted in text
    assert ".note.GNU-stack" in text, "or the library's stack would be executable"


def test_a_cubin_tells_of_its_kernel():
    text = made_up_cubin.image("flashmla_entry", [128, 8, 4], threads=512, registers=127, stack=16, abi=8)
    assert cubin.facts(text) == {
        "elf_abi": 8,
        "entry": "flashmla_entry",
        "params": [128, 8, 4],
        "threads": 512,
        "registers": 127,
        "stack": 16,
        "local": 0,
    }


def test_instructions_are_counted_in_the_disassembly(tmp_path):
    code = "HGMMA.64x64 R1 ;\n@P0 HGMMA ;\nQGMMA.64x32 R1 ;\nUTMALDG.5D ;\nLDL R1, [R2] ;\n"
    code += "WARPGROUP.DEPBAR.LE gsb0, 0x0 ;\nLDLX ;\n"
    code += "ATOMG.E.ADD.64.STRONG.GPU PT, RZ ;\nREDG.E.ADD.STRONG.SYS desc ;\nLDG.E.64.STRONG.SYS R1 ;\n"
    tool = tmp_path / "nvdisasm"
    (tmp_path / "code.txt").write_text(code)
    tool.write_text(f"#!/bin/sh\ncat {tmp_path}/code.txt\n")
    tool.chmod(0o755)
    expected = {
        "HGMMA": 2,
        "QGMMA": 1,
        "UTMALDG": 1,
        "WARPGROUP.DEPBAR": 1,
        "LDL": 1,
        "STL": 0,
        cubin.SYSTEM_ATOMICS: 1,
    }
    assert cubin.count_instructions(b"", str(tool)) == expected


@pytest.mark.parametrize(("problems", "status"), [([], 0), (["some_kernel: 0 UTMALDG"], 1)])
def test_the_check_command_tells_problems_and_fails(monkeypatch, capsys, problems, status):
    monkeypatch.setattr(sys, "argv", ["aot", "check", "--only", "plan"])
    monkeypatch.setattr(command, "build", lambda *_: [KERNEL])
    monkeypatch.setattr(command.checks, "problems", lambda *_: problems)
    assert command.main() == status
    assert ("\n".join(problems) or "1 kernels") in capsys.readouterr().out


def test_the_list_command_lists_every_variant(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["aot", "list"])
    assert command.main() == 0
    assert capsys.readouterr().out.count("Variant(") == len(VARIANTS)


def test_kernels_for_other_parameters_are_not_built_in(tmp_path):
    """As where the kernel compiler is missing, and what it made before is at hand."""
    source = tmp_path / "table.c"
    source.write_text(embed.table([KERNEL]).split("extern const")[0])
    check = ["cc", "-fsyntax-only", f"-I{tree.SOURCE}", f"-I{tree.INCLUDE}", str(source)]
    assert subprocess.run(check, check=False, capture_output=True).returncode == 0
    source.write_text(source.read_text().replace(header.params_digest(), "0x12345678"))
    refused = subprocess.run(check, check=False, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "take other parameters: run `python3 -m aot build`" in refused.stderr
