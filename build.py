#!/usr/bin/env python3
"""Builds, tests and installs libflashmla: `python3 build.py lib | install | demo | test | wheel | check-release`.

The commands make `.venv`, install the pinned extras of pyproject.toml there, compile the GPU kernels and the library,
and do their job; the second time what did not change is skipped. Only the standard library is needed to start, and for
C users nothing more: `lib` and `install` with --cpu-only need Python and a C compiler. The work is done in buildtools/,
whose functions tests and benchmarks find here; so does hatchling its hook and the version.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if str(Path(__file__).resolve().parent) not in sys.path:  # hatchling loads this file by its path
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from buildtools.environments import ensure_kernels, ensure_venv, enter_venv, extras, has_driver
from buildtools.install import install
from buildtools.library import (
    LIBRARIES,
    build_library,
    compile_flags,
    compile_one,
    compiler,
    has_cffi,
    objects_folder,
    shared_digest,
)
from buildtools.linting import c_files, lint, shell_scripts
from buildtools.tree import (
    BUILD,
    CORES,
    GENERATED,
    HEADER,
    INCLUDE,
    PACKAGE,
    ROOT,
    SONAME,
    SOURCE,
    digest,
    header_text,
    headers,
    one_build_at_a_time,
    run,
    version,
)
from buildtools.wheel import CPU_ONLY, get_build_hook

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BUILD",
    "GENERATED",
    "HEADER",
    "INCLUDE",
    "LIBRARIES",
    "PACKAGE",
    "ROOT",
    "SONAME",
    "SOURCE",
    "build_library",
    "c_files",
    "compile_flags",
    "compile_one",
    "compiler",
    "digest",
    "ensure_venv",
    "extras",
    "get_build_hook",
    "header_text",
    "headers",
    "objects_folder",
    "one_build_at_a_time",
    "run",
    "shared_digest",
    "shell_scripts",
    "version",
]


def command_lib(options: argparse.Namespace) -> None:
    # The Python package needs cffi: from .venv, where that is. Without it C users still get the library.
    if options.out is None and not has_cffi() and (not options.cpu_only or (ROOT / ".venv").exists()):
        enter_venv(extras())
    if not (options.cpu_only or options.sanitize):
        ensure_kernels()
    library = build_library(
        sanitize=options.sanitize,
        debug=options.debug,
        cpu_only=options.cpu_only,
        out=options.out and options.out.resolve(),
    )
    print(library)


def command_install(options: argparse.Namespace) -> None:
    if not options.cpu_only:
        if not (ROOT / "PKG-INFO").exists():  # a source distribution brings its kernels
            enter_venv(extras("aot"))
        ensure_kernels()
    destdir = os.environ.get("DESTDIR", "")
    prefix = Path(os.path.abspath(options.prefix))  # noqa: PTH100 - links in it are the user's
    try:
        install(prefix, libdir=options.libdir, cpu_only=options.cpu_only, destdir=destdir)
    except OSError as error:
        raise SystemExit(f"build.py: {error.filename} cannot be written: {error.strerror}") from None


def command_demo(options: argparse.Namespace) -> None:
    needs_kernels = not options.cpu_only and {"-h", "--help"}.isdisjoint(options.rest)
    kernels = ["aot", *(["demo-gpu"] if has_driver() else [])] if needs_kernels else []
    enter_venv(extras("demo", *kernels))
    if needs_kernels:
        ensure_kernels()
    build_library(cpu_only=options.cpu_only)  # with the kernels that are there
    run([sys.executable, "examples/python/serve.py", *options.rest])


def command_test(options: argparse.Namespace) -> None:
    enter_venv(extras("aot", "test", "release"))
    lint()
    ensure_kernels()
    build_library()
    profile = os.environ.get("HYPOTHESIS_PROFILE", "ci")
    workers = ["-n", str(min(CORES, 4))] if CORES > 1 else []
    run([sys.executable, "-m", "pytest", *workers, *options.rest], HYPOTHESIS_PROFILE=profile)


def command_wheel(options: argparse.Namespace) -> None:
    """By hatchling itself: an environment made without ensurepip has no pip."""
    enter_venv(extras("release", *(() if options.cpu_only else ("aot",))))
    flags = {CPU_ONLY: "1"} if options.cpu_only else {}
    run([sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", "dist"], **flags)


def command_check_release(_: argparse.Namespace) -> None:
    enter_venv(extras("aot"))
    ensure_kernels()
    run([sys.executable, "benchmarks/check_release.py"])


def command_clean(_: argparse.Namespace) -> None:
    """Removes what builds made; the environments stay (delete .venv* to remake them)."""
    for made in [BUILD, ROOT / "dist", GENERATED]:
        shutil.rmtree(made, ignore_errors=True)
    for made in [PACKAGE / "_cdef.py", *PACKAGE.glob("*.so*")]:
        made.unlink(missing_ok=True)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="build.py", description=__doc__.split("\n\n")[0] if __doc__ else None)
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, action: object, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(action=action)
        return added

    lib = command("lib", command_lib, "build the shared library into the Python package")
    lib.add_argument("--sanitize", action="store_true", help="AddressSanitizer and UBSan (tests only; give --out)")
    lib.add_argument("--debug", action="store_true", help="-O1 -g")
    lib.add_argument("--out", type=Path, metavar="DIR", help=f"write {SONAME} there instead")
    to = command("install", command_install, "install library, header, pkg-config and CMake files for C programs")
    to.add_argument("--prefix", type=Path, default=Path("/usr/local"), help="default: /usr/local; DESTDIR is heeded")
    to.add_argument("--libdir", default="lib", help="folder of libraries below the prefix; default: lib")
    demo = command(
        "demo",
        command_demo,
        "serve a request trace; further arguments, such as --sparse, go to examples/python/serve.py (demo -- --help)",
    )
    command("test", command_test, "lint, types and all tests; arguments after -- go to pytest")
    wheel = command("wheel", command_wheel, "make a wheel in dist/")
    for added in (lib, to, demo, wheel):
        added.add_argument("--cpu-only", action="store_true", help="leave the GPU kernels out")
    command("check-release", command_check_release, "fail where records or documents are not of these sources")
    command("clean", command_clean, "remove what builds made")
    options, rest = parser.parse_known_args(arguments)
    options.rest = [argument for argument in rest if argument != "--"]
    if rest and options.action not in {command_demo, command_test}:
        parser.error(f"unknown arguments: {shlex.join(rest)}")
    if getattr(options, "sanitize", False) and options.out is None:
        parser.error("--sanitize makes a test library: give --out DIR")
    return options


def pypa_build() -> None:
    """`python -m build` in this folder means PyPA's program of that name, which this file hides."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    try:
        runpy.run_module("build", run_name="__main__", alter_sys=True)
    except ImportError as error:
        raise SystemExit(f"{error}: pip install build; this tree's own commands are `python3 build.py ...`") from None


def main() -> None:
    if sys.version_info < (3, 10):  # noqa: UP036 - whoever starts it may have any
        raise SystemExit(f"build.py: Python 3.10 or newer is needed, this is {sys.version.split()[0]}")
    options = parse(sys.argv[1:])
    options.action(options)


if __name__ == "__main__":
    if __spec__ is None:
        main()
    else:
        pypa_build()
