"""Style and types of everything that is written by hand."""

from __future__ import annotations

import sys
from pathlib import Path

from buildtools.library import make_cdef
from buildtools.tree import BUILD, GENERATED, ROOT, one_build_at_a_time, run

COPIES = ROOT / "tests" / "abi" / "dlpack"  # of DLPack's own header


def c_files() -> list[Path]:
    """The C and C++ sources that are written by hand."""
    found = [
        path
        for folder in (ROOT / "libflashmla", ROOT / "tests", ROOT / "examples")
        for path in folder.rglob("*")
        if path.suffix in {".c", ".h", ".inc", ".cpp", ".hpp"} and not {GENERATED, COPIES} & set(path.parents)
    ]
    return sorted(path for path in found if not path.read_text().startswith("/* Generated"))


def shell_scripts() -> list[Path]:
    return [ROOT / ".ci" / "run", *sorted(path for path in ROOT.glob("[!.]*/**/*.sh") if BUILD not in path.parents)]


def lint() -> None:
    with one_build_at_a_time():
        make_cdef()  # mypy follows it
    tools = Path(sys.executable).parent
    run([sys.executable, "-m", "ruff", "check", "."])
    run([sys.executable, "-m", "ruff", "format", "--check", "."])
    run([sys.executable, "-m", "mypy"])
    run([tools / "clang-format", "--dry-run", "-Werror", *c_files()], title="$ clang-format --dry-run -Werror")
    run([tools / "shellcheck", *shell_scripts()], title="$ shellcheck")
