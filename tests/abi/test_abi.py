"""The binary interface moves with FLASHMLA_ABI_VERSION alone, and the library needs and exports only what it may."""

import importlib.util
import re
import subprocess
from pathlib import Path

import dump
import pytest

import build

HERE = Path(__file__).parent
ABI = int(re.search(r"^#define FLASHMLA_ABI_VERSION (\d+)$", build.header_text(), re.MULTILINE)[1])
RECORD = HERE / f"abi-{ABI}.txt"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
LANGUAGES = [["-x", "c", "-std=c99"], ["-x", "c", "-std=c11"], ["-x", "c++", "-std=c++17"]]


def recorded() -> list[str]:
    assert RECORD.exists(), (
        f"ABI {ABI} is not recorded: run python tests/abi/dump.py > {RECORD.relative_to(build.ROOT)}"
    )
    return RECORD.read_text().splitlines()


def read_library(*command: str) -> str:
    return subprocess.run([*command, dump.LIBRARY], check=True, capture_output=True, text=True).stdout


def test_nothing_moved():
    assert dump.broken(recorded(), dump.facts()) == [], "an incompatible change: it takes a new FLASHMLA_ABI_VERSION"


def test_everything_is_recorded():
    assert dump.facts() == recorded(), f"run python tests/abi/dump.py > {RECORD.relative_to(build.ROOT)}"


@pytest.mark.parametrize(
    ("line", "changed", "fine"),
    [
        (
            "field flashmla_dense_decode_params.q 8 DLTensor *",
            "field flashmla_dense_decode_params.q 16 DLTensor *",
            False,
        ),
        ("value FLASHMLA_ERROR_SHAPE 111", "value FLASHMLA_ERROR_SHAPE 112", False),
        ("function flashmla_version int32_t(*)()", "", False),
        ("size flashmla_plan 256", "size flashmla_plan 264", False),
        ("size flashmla_dense_decode_params 176", "size flashmla_dense_decode_params 168", False),
        ("size flashmla_dense_decode_params 176", "size flashmla_dense_decode_params 184", True),
        ("size flashmla_call_record 192", "size flashmla_call_record 200", True),
        ("value FLASHMLA_OK 0", "value FLASHMLA_OK 0\nvalue FLASHMLA_ERROR_NEW 119", True),
    ],
)
def test_a_moved_fact_is_noticed(line, changed, fine):
    before = recorded()
    assert line in before
    after = "\n".join(before).replace(line, changed).splitlines()
    assert (dump.broken(before, after) == []) == fine


def torch_include() -> list:
    """PyTorch's own copy, where it is installed."""
    found = importlib.util.find_spec("torch")
    folder = Path(found.origin).parent / "include" if found else HERE
    return [pytest.param(folder / "ATen", id="torch")] if (folder / "ATen" / "dlpack.h").exists() else []


# Folder of a dlpack.h; None: the program includes none.
DLPACK = [None, *(pytest.param(path.parent, id=path.parts[-3]) for path in sorted(HERE.glob("dlpack/*/*/dlpack.h")))]


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language[-1])
@pytest.mark.parametrize("first", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("dlpack", [*DLPACK, *torch_include()])
def test_compilers_see_the_recorded_layout(language, dlpack, first, tmp_path):
    """The header is clean in C and C++, alone, before and behind DLPack's, and offsets are those of the record."""
    lines = ["#include <flashmla/flashmla.h>"]
    if dlpack:
        lines.insert(0 if first else 1, f"#include <{dlpack.name}/dlpack.h>")
        # Of every version, and used as a program would that knows nothing of flashmla.h.
        lines += ["DLManagedTensor flashmla_test_managed;", "typedef char flashmla_test[kDLROCM == 10 ? 1 : -1];"]
        for name in ["DLPackVersion", "DLPackExchangeAPI"]:
            if name in (dlpack / "dlpack.h").read_text():
                lines.append(f"{name} flashmla_test_{name};")
    for number, (kind, name, value, *_) in enumerate(
        line.split() for line in recorded() if not line.startswith(("function ", "opaque "))
    ):
        if name.startswith("kDL"):
            continue  # other versions of DLPack have fewer
        member = name.replace(".", ", ")
        expression = {"size": f"sizeof({name})", "field": f"offsetof({member})", "value": f"(int){name}"}[kind]
        lines.append(f"typedef char flashmla_test_{number}[{expression} == {value} ? 1 : -1]; /* {name} */")
    lines += ["int main(void) {", "  DLTensor tensor;"]
    lines += ["  flashmla_dense_decode_params params;", "  params.q = &tensor;", "  return params.q == 0;", "}", ""]
    source = tmp_path / "layout.c"
    source.write_text("\n".join(lines))
    paths = [f"-I{build.INCLUDE}", *([f"-I{dlpack.parent}"] if dlpack else [])]
    subprocess.run([build.compiler(), *language, *WARNINGS, *paths, "-fsyntax-only", source], check=True)


def test_exports_are_the_functions_of_the_header():
    exported = [line.split()[-1].split("@")[0] for line in read_library("nm", "-D", "--defined-only").splitlines()]
    declared = [line.split()[1] for line in recorded() if line.startswith("function ")]
    assert sorted(exported) == declared


def test_needs_glibc_alone():
    dynamic = read_library("readelf", "-dW")
    needed = set(re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic))
    others = {name for name in needed if not name.startswith("ld-linux")}
    assert others <= {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2"}
    assert re.findall(r"\(SONAME\).*\[(.+)\]", dynamic) == [f"libflashmla.so.{ABI}"]
    assert not re.search(r"GNU_STACK.*RWE", read_library("readelf", "-lW"))
    assert "STATIC_TLS" not in dynamic, "dlopen fails where other libraries have used up glibc's small reserve"
