"""The AOT build around the compiler: keys, cache, refusals and generated text, with a compiler that is made up."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from aot import __main__ as command
from aot import compiling, embed, inspect_cubin, paths
from dsl_kernels import params
from dsl_kernels.variants import VARIANTS, Variant

VARIANT = VARIANTS[0]
COMPILER = "made-up compiler 1.0"
PTX_TYPES = {"float": "f32", "int32_t": "u32", "int64_t": "u64"}


def ptx(variant: Variant, listed=None) -> str:
    """PTX whose entry takes the listed parameters, as the compiler writes it."""
    lines = []
    for i, p in enumerate(params.BY_OPERATION[variant.operation] if listed is None else listed):
        if p.ctype == "tensormap":
            lines.append(f"\t.param .align 128 .b8 flashmla_param_{i}[128]")
        elif p.ctype.endswith("*"):
            lines.append(f"\t.param .u64 .ptr .global .align {p.align} flashmla_param_{i}")
        else:
            lines.append(f"\t.param .{PTX_TYPES[p.ctype]} flashmla_param_{i}")
    return (
        f".target sm_90a\n.visible .entry flashmla_{variant.name}_0(\n"
        + ",\n".join(lines)
        + "\n)\n.reqntid 384\n{\n}\n"
    )


def compile_here(stale, jobs):
    """In this process, where the made-up compiler is."""
    assert jobs == 1
    for variant, key in stale:
        compiling.compile_variant(variant, key, paths.CACHE)


@pytest.fixture
def made(monkeypatch, tmp_path) -> list[str]:
    """A tree of its own with the made-up compiler; the names of what was compiled, in order."""
    compiled: list[str] = []

    def compile_one(variant):
        compiled.append(variant.name)
        image = b"\x7fELF" + bytes(4) + b"\x07" + variant.name.encode()
        return image, ptx(variant), SimpleNamespace(threads=384, shared_bytes=1024)

    monkeypatch.setattr(compiling, "_compile", compile_one)
    monkeypatch.setattr(compiling, "compiler_version", lambda: COMPILER)
    monkeypatch.setattr(inspect_cubin, "tools", lambda: None)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(paths, "LOCK", tmp_path / "build" / "lock")
    monkeypatch.setattr(paths, "GENERATED", tmp_path / "generated")
    monkeypatch.setattr(paths, "MANIFEST", tmp_path / "generated" / "kernels.json")
    monkeypatch.setattr(command, "compile_all", compile_here)
    return compiled


@pytest.mark.parametrize("suffix", [".cubin", ".json"])
def test_half_a_result_is_none(made, suffix):
    command.build(1)
    [half] = paths.CACHE.glob(f"{VARIANT.name}-*{suffix}")
    half.unlink()
    command.build(1)
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
            command.build(1)
    assert not list(paths.CACHE.glob("*.json")), "facts come last"
    command.build(1)
    assert made == [VARIANT.name, *(variant.name for variant in VARIANTS)]


@pytest.mark.usefixtures("made")
def test_one_build_waits_for_another(monkeypatch):
    inside = threading.Lock()

    def compile_alone(stale, jobs):
        assert inside.acquire(blocking=False), "two builds at once"
        time.sleep(0.05)
        compile_here(stale, jobs)
        inside.release()

    monkeypatch.setattr(command, "compile_all", compile_alone)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(command.build, (1, 1))
    assert first == second


def test_the_lock_is_that_of_build_py():
    (name,) = re.findall(r'\(BUILD / "(\w+)"\)\.open\("w"\) as lock', (paths.ROOT / "build.py").read_text())
    assert paths.ROOT / "build" / name == paths.LOCK


def test_facts_are_completed_when_the_disassembler_has_come(made, monkeypatch):
    command.build(1)
    assert '"registers"' not in paths.MANIFEST.read_text()
    monkeypatch.setattr(inspect_cubin, "tools", lambda: ("cuobjdump", "nvdisasm"))
    monkeypatch.setattr(inspect_cubin, "facts", lambda _: {"registers": 168, "instructions": {}})
    assert {kernel["registers"] for kernel in command.build(1)} == {168}
    monkeypatch.setattr(inspect_cubin, "tools", lambda: None)
    assert {kernel["registers"] for kernel in command.build(1)} == {168}, "and stay complete"
    assert len(made) == len(VARIANTS)


def test_a_second_build_compiles_nothing_and_changes_no_file(made, capsys):
    kernels = command.build(1)
    assert made == [variant.name for variant in VARIANTS]
    assert f"compiling {len(VARIANTS)} of {len(VARIANTS)} with {COMPILER}" in capsys.readouterr().out
    times = {path: path.stat().st_mtime_ns for path in paths.GENERATED.glob("kernel*") if path.suffix != ".json"}
    assert command.build(1) == kernels
    assert len(made) == len(VARIANTS)
    assert capsys.readouterr().out == "", "and says nothing"
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(times) == 2


@pytest.mark.usefixtures("made")
def test_a_build_embeds_every_kernel_and_forgets_old_ones():
    paths.GENERATED.mkdir()
    old = paths.GENERATED / "dense_decode_of_yesterday.cubin"
    old.write_bytes(b"")
    command.build(1)
    assert not old.exists()
    assert {path.stem for path in paths.GENERATED.glob("*.cubin")} == {variant.name for variant in VARIANTS}
    manifest = json.loads(paths.MANIFEST.read_text())
    assert manifest["compiler"] == COMPILER
    assert manifest["source"] == compiling.source_digest()
    assert [kernel["name"] for kernel in manifest["kernels"]] == [variant.name for variant in VARIANTS]


def test_a_variant_over_the_budget_stops_the_build_before_it_compiles(made, monkeypatch):
    large = Variant("dense_decode", "bfloat16", 576, 512, cluster=2, slots=4)
    monkeypatch.setattr(command, "VARIANTS", (*VARIANTS, large))
    with pytest.raises(SystemExit, match=rf"over the budget of an SM .*: {large.name}$"):
        command.build(1)
    assert made == []


def test_the_key_names_everything_that_decides_the_code():
    key = compiling.key_of(VARIANT, "source", COMPILER)
    assert key == compiling.key_of(dataclasses.replace(VARIANT), "source", COMPILER)
    assert key.startswith(VARIANT.name)
    changed = {"operation": "combine", "dtype": "float16"}
    others = [
        compiling.key_of(VARIANT, "other source", COMPILER),
        compiling.key_of(VARIANT, "source", "made-up compiler 1.1"),
    ]
    for field in dataclasses.fields(Variant):
        value = getattr(VARIANT, field.name)
        other = changed.get(field.name) or ((1, 2) if isinstance(value, tuple) else value + 1)
        others.append(compiling.key_of(dataclasses.replace(VARIANT, **{field.name: other}), "source", COMPILER))
    assert len({key, *others}) == 1 + len(others)


def test_the_source_digest_follows_the_kernels_and_not_the_table(monkeypatch, tmp_path):
    copied = tmp_path / "dsl_kernels"
    shutil.copytree(paths.KERNELS, copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(paths, "KERNELS", copied)
    digest = compiling.source_digest()
    for name, counts in (("dense_decode.py", True), ("components/schedule.py", True), ("params.py", True)):
        text = (copied / name).read_text()
        (copied / name).write_text(text + "# changed\n")
        assert (compiling.source_digest() != digest) == counts, name
        (copied / name).write_text(text)
    for module in (compiling, inspect_cubin):
        edited = tmp_path / "aot" / Path(module.__file__).name
        edited.parent.mkdir(exist_ok=True)
        edited.write_text("# changed\n")
        with monkeypatch.context() as patch:
            patch.setattr(module, "__file__", str(edited))
            assert compiling.source_digest() != digest, edited.name
    (copied / "components" / "params.py").write_bytes((copied / "params.py").read_bytes())
    one_more = compiling.source_digest()
    (copied / "components" / "params.py").rename(copied / "components" / "moved.py")
    assert len({digest, one_more, compiling.source_digest()}) == 3, "where a file lies counts"
    (copied / "components" / "moved.py").unlink()
    for name in ("variants.py", "budget.py"):
        (copied / name).write_text("# changed\n")
        assert compiling.source_digest() == digest, name


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_an_entry_with_the_listed_parameters_is_taken(variant):
    facts = compiling._entry_facts(ptx(variant), variant)
    assert facts["entry"] == f"flashmla_{variant.name}_0"
    assert facts["params"] == [p.size for p in params.BY_OPERATION[variant.operation]]


def without_one(listed):
    return listed[:-1]


def with_one_more(listed):
    return (*listed, params.Param("surprise", "int32_t", ""))


def in_another_order(listed):
    return (*listed[1:], listed[0])


def of_another_size(listed):
    return (*listed[:-1], params.Param(listed[-1].name, "int64_t", ""))


@pytest.mark.parametrize("change", [without_one, with_one_more, in_another_order, of_another_size])
def test_an_entry_with_other_parameters_is_refused(change):
    listed = params.PLAN if change is not in_another_order else params.COMBINE[4:6] + params.COMBINE[-1:]
    variant = Variant("plan") if change is not in_another_order else Variant("combine", "bfloat16", d_v=512)
    with pytest.raises(RuntimeError, match=f"{variant.name}: the compiled entry takes parameters of"):
        compiling._entry_facts(ptx(variant, change(listed)), variant)


KERNEL = {
    "name": "dense_decode_bf16_576_cluster2",
    "operation": "dense_decode",
    "dtype": "bfloat16",
    "d_qk": 576,
    "d_v": 512,
    "any_page": False,
    "cluster": 2,
    "threads": 384,
    "shared_bytes": 232448,
    "sha256": "0" * 64,
    "entry": "flashmla_entry",
    "elf_abi": 7,
    "registers": 168,
}


def test_a_row_of_the_generated_table():
    row = re.search(r"\{\.name.*?\}", embed._table([KERNEL]), re.DOTALL)[0]
    fields = dict(re.findall(r"\.(\w+) = ([^,}]+)", row))
    assert fields == {
        "name": '"dense_decode_bf16_576_cluster2"',
        "operation": "FM_DENSE_DECODE",
        "dtype": "FM_BF16",
        "d_qk": "576",
        "d_v": "512",
        "any_page": "0",
        "cluster": "2",
        "min_driver": "12000",
        "registers": "168",
        "shared_bytes": "232448",
        "threads": "384",
        "entry": '"flashmla_entry"',
        "image": "fm_cubin_dense_decode_bf16_576_cluster2",
    }


def test_a_kernel_for_newer_drivers_says_so():
    assert ".min_driver = 13000" in embed._table([KERNEL | {"elf_abi": 8}])
    with pytest.raises(KeyError):
        embed._table([KERNEL | {"elf_abi": 9}])


def test_the_generated_assembly_embeds_a_hidden_aligned_image():
    text = embed._assembly([KERNEL])
    symbol = "fm_cubin_dense_decode_bf16_576_cluster2"
    wanted = f".hidden {symbol}\n.globl {symbol}\n.balign 64\n{symbol}:\n.incbin "
    assert wanted in text
    assert ".note.GNU-stack" in text, "or the library's stack would be executable"


def test_inspection_reads_registers_memory_and_instructions(monkeypatch, tmp_path):
    usage = "Function k:\n REG:168 STACK:16 SHARED:0 LOCAL:8 CONSTANT[0]:1000\n"
    code = "HGMMA.64x64 R1 ;\n@P0 HGMMA ;\nUTMALDG.5D ;\nLDL R1, [R2] ;\nWARPGROUP.DEPBAR.LE gsb0, 0x0 ;\nLDLX ;\n"
    for name, text in (("cuobjdump", usage), ("nvdisasm", code)):
        (tmp_path / f"{name}.txt").write_text(text)
        (tmp_path / name).write_text(f"#!/bin/sh\ncat {tmp_path / name}.txt\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(inspect_cubin, "_tool", lambda name: str(tmp_path / name))
    assert inspect_cubin.facts(b"\x7fELF" + bytes(4) + b"\x08") == {
        "elf_abi": 8,
        "registers": 168,
        "stack": 16,
        "local": 8,
        "instructions": {"HGMMA": 2, "UTMALDG": 1, "WARPGROUP.DEPBAR": 1, "LDL": 1, "STL": 0},
    }


def test_without_a_disassembler_the_elf_abi_is_known(monkeypatch):
    monkeypatch.setattr(inspect_cubin, "_tool", lambda _: None)
    assert inspect_cubin.facts(b"\x7fELF" + bytes(4) + b"\x07") == {"elf_abi": 7}


@pytest.mark.parametrize(("problems", "status"), [([], 0), (["some_kernel: no UTMALDG"], 1)])
def test_the_check_command_tells_problems_and_fails(monkeypatch, capsys, problems, status):
    monkeypatch.setattr(sys, "argv", ["aot", "check"])
    monkeypatch.setattr(command, "build", lambda _: [KERNEL])
    monkeypatch.setattr(command.checks, "problems", lambda _: problems)
    assert command.main() == status
    assert ("\n".join(problems) or "1 kernels") in capsys.readouterr().out


def test_the_list_command_lists_every_variant(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["aot", "list"])
    assert command.main() == 0
    assert capsys.readouterr().out.count("Variant(") == len(VARIANTS)
