"""Compiles and runs the C tests: the core with a stand-in backend, and the whole library, under sanitizers.

`core/test_*.c`, here, of pools and in the folders of the operations, link the sources of libflashmla/src itself with
every fake_*.c, which stand in for the backends; an operation that has none gets one that only fails.
`library/test_*.c` link every source but the GPU kernels. Objects are cached like those of the library.
"""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import build
import operations

HERE = Path(__file__).parent
WHOLE = sorted(build.SOURCE.rglob("*.c"))
# Folders and files of the backends, for which fake_backend.c stands in, are called cuda or cpu and perhaps more.
CORE = [
    path for path in WHOLE if not re.search(r"/(cuda|cpu)\b|/(cuda|cpu)_", str(path.relative_to(build.SOURCE.parent)))
]
FLAGS = {
    "address": build.compile_flags(sanitize=True, debug=False, kernels=False),
    "thread": [*build.compile_flags(sanitize=False, debug=True, kernels=False), "-fsanitize=thread"],
    "release": build.compile_flags(sanitize=False, debug=False, kernels=False),
}
COMPILERS = ["gcc", "clang"]
FOLDERS = [HERE, HERE.parent / "pool" / "c", *(operations.FOLDER / name / "c" for name in operations.NAMES)]


# Weak, so that what a fake_*.c has takes its place.
STAND_INS = build.BUILD / "stand_ins.c"
STAND_IN = """#include "core/operation.h"

static flashmla_status launch(fm_call *call, void *state) {
  (void)state;
  return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "%s has no stand-in for its backends", call->operation->name);
}
"""
STAND_IN_FOR = "extern const fm_backend {0}; const fm_backend {0} __attribute__((weak)) = {{.launch = launch}};\n"


def write_stand_ins() -> None:
    """Backends of every operation."""
    names = [f"fm_{name}_{side}" for name in operations.NAMES for side in ("cuda", "cpu")]
    text = "".join([STAND_IN, *map(STAND_IN_FOR.format, names)])
    if not STAND_INS.exists() or STAND_INS.read_text() != text:
        STAND_INS.write_text(text)


def programs(kind: str) -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (folder / kind).glob("test_*.c"))


def sanitizer(path: Path) -> str:
    """test_stack.c measures what a sanitizer would add to."""
    return "release" if path.stem == "test_stack" else "address"


FAKES = sorted(path for folder in FOLDERS for path in folder.glob("fake_*.c"))
PROGRAMS = [
    *((path, [*CORE, *FAKES, STAND_INS], "address") for path in programs("core")),
    *((HERE / "core" / f"test_{name}.c", [*CORE, *FAKES, STAND_INS], "thread") for name in ("error", "tuned_calls")),
    *((path, WHOLE, sanitizer(path)) for path in programs("library")),
    *((HERE / "library" / f"test_{name}.c", WHOLE, "thread") for name in ("prepared", "profile", "threads", "workers")),
    (HERE.parent / "pool" / "c" / "library" / "test_pool_threads.c", WHOLE, "thread"),
]


def program_id(program) -> str:
    path, _, flags = program
    return f"{path.relative_to(HERE.parent).with_suffix('')}-{flags}"


def compile_program(path: Path, sources: list[Path], kind: str, made: Path) -> None:
    flags = [*FLAGS[kind], f"-I{HERE}"]
    headers = [
        *build.INCLUDE.rglob("*.h"),
        *build.SOURCE.rglob("*.h"),
        *build.SOURCE.rglob("*.inc"),
        *(header for folder in FOLDERS for header in folder.glob("*.h")),
    ]
    shared = build.shared_digest(sorted(headers))
    folder = build.objects_folder(flags)
    with build.one_build_at_a_time():
        write_stand_ins()
        objects = [
            build.compile_one(source, flags, shared, folder)[0] for source in [path, HERE / "fixture.c", *sources]
        ]
        sanitizers = [flag for flag in flags if flag.startswith("-fsanitize")]
        subprocess.run([build.compiler(), *sanitizers, "-o", made, *objects, *build.LIBRARIES], check=True)


def run_program(program, folder):
    made = folder / program[0].stem
    compile_program(*program, made)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLASHMLA_")}
    ran = subprocess.run(
        [made], env={**environment, "ASAN_OPTIONS": "detect_leaks=1"}, capture_output=True, text=True, check=False
    )
    if "ThreadSanitizer: unexpected memory mapping" in ran.stderr:
        pytest.skip("this kernel's address randomisation is too wide for the compiler's ThreadSanitizer")
    print(ran.stdout)  # what a test has measured
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("program", PROGRAMS, ids=program_id)
def test_program(program, tmp_path):
    run_program(program, tmp_path)


@pytest.mark.skipif(not shutil.which("clang"), reason="clang is not installed")
@pytest.mark.parametrize(
    "program", [p for p in PROGRAMS if p[2] != "thread"], ids=lambda p: program_id((*p[:2], "clang"))
)
def test_program_of_clang(program, tmp_path, monkeypatch):
    """As users build it: sanitizers see the same sources above."""
    monkeypatch.setenv("CC", "clang")
    run_program((*program[:2], "release"), tmp_path)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_warning_is_no_error_unless_asked(compiler, tmp_path, monkeypatch):
    """A compiler of tomorrow has warnings that this tree does not know; CI asks."""
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    source = build.BUILD / f"warned_of_{compiler}.c"
    source.write_text("int flashmla_warned(int unused) { return 0; }\n")
    monkeypatch.setenv("CC", compiler)
    for given, fine in [("", True), ("-Werror", False)]:
        monkeypatch.setenv("CFLAGS", given)
        flags = build.compile_flags(sanitize=False, debug=False, kernels=False)
        if fine:
            build.compile_one(source, flags, "", tmp_path)
        else:
            with pytest.raises(SystemExit):
                build.compile_one(source, flags, "", tmp_path)
    assert re.search(r"^export CFLAGS=.*-Werror", (build.ROOT / ".ci" / "run").read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", ["decode.c", "sparse.c"])
def test_example_builds_with_the_line_it_states(name):
    source = build.ROOT / "examples" / "c" / name
    comment = source.read_text().split("*/")[0]
    lines = re.findall(r"^ \*  (\S.*)$", comment, re.MULTILINE)
    assert lines[0].startswith(f"gcc examples/c/{name} ")
    output = ""
    for line in lines:
        output = subprocess.run(shlex.split(line), cwd=build.ROOT, check=True, capture_output=True, text=True).stdout
    assert re.search(r"worst difference from the plain loop \d\.\de-\d\d", output)
