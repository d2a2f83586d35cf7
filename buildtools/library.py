"""Compiles and links the C library: shared, as an archive, and for the glibc of releases.

CC and CFLAGS of the environment are heeded. Warnings are no errors here, since a compiler that is newer than this tree
may have new ones: whoever wants them to be adds -Werror to CFLAGS.
"""

from __future__ import annotations

import concurrent.futures
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

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
    link_to,
    one_build_at_a_time,
    run,
    say,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Objects = list[tuple[Path, str]]

EXPORTS = ROOT / "libflashmla" / "flashmla.map"
C_FLAGS = [
    *("-std=c11", "-D_GNU_SOURCE", "-fPIC", "-fvisibility=hidden"),
    *("-Wall", "-Wextra", f"-I{INCLUDE}", f"-I{SOURCE}", f"-I{GENERATED}"),
]
LINK_FLAGS = [
    *("-shared", f"-Wl,-soname,{SONAME}", f"-Wl,--version-script={EXPORTS}", "-Wl,-z,noexecstack", "-Wl,--as-needed"),
    "-Wl,-z,nodelete",  # idle worker threads of the CPU backend run its code
]
LIBRARIES = ["-lm", "-lpthread", "-ldl"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined"]
RELEASE_GLIBC = "2.28"  # that of RHEL 8, Debian 10 and Ubuntu 20.04, and of the tag manylinux_2_28


def compiler() -> str:
    found = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    if not found:
        raise SystemExit("build.py: no C compiler: install gcc or clang, or set CC")
    if not shutil.which(found):
        raise SystemExit(f"build.py: CC is {found!r}, which is no program that can be found")
    return found


def compile_flags(*, sanitize: bool, debug: bool, kernels: bool) -> list[str]:
    flags = [*C_FLAGS, "-O1" if sanitize or debug else "-O3"]
    if sanitize or debug:
        flags.append("-g")
    if sanitize:
        flags += SANITIZERS
    if not kernels:
        flags.append("-DFLASHMLA_CPU_ONLY")
    return flags + shlex.split(os.environ.get("CFLAGS", ""))


def compiler_version() -> str:
    return subprocess.run([compiler(), "--version"], check=True, capture_output=True, text=True).stdout


def objects_folder(flags: Sequence[str]) -> Path:
    """Where objects of this compiler and these flags are kept."""
    folder = BUILD / "objects" / digest(compiler_version(), *flags)[:12]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def shared_digest(headers: Sequence[Path]) -> str:
    """The hash of what every object is made from besides its source and flags."""
    return digest(compiler_version(), *headers)


def compile_one(source: Path, flags: list[str], shared: str, folder: Path) -> tuple[Path, str]:
    """One object file and the hash of what it was made from; `shared` is the hash of headers and compiler."""
    name = str(source.relative_to(ROOT)).replace("/", "-")
    made, stamp = folder / f"{name}.o", folder / f"{name}.key"
    key = digest(shared, source, *flags)
    if not (made.exists() and stamp.exists() and stamp.read_text() == key):
        stamp.unlink(missing_ok=True)
        run([compiler(), *flags, "-c", source, "-o", made], title=f"cc {source.relative_to(ROOT)}")
        stamp.write_text(key)
    return made, key


def compile_objects(flags: list[str], *, kernels: bool, edited: Mapping[Path, Path] | None = None) -> Objects:
    """Compiles what changed, in parallel; `edited`: C files to compile in place of others."""
    sources = [(edited or {}).get(source, source) for source in sorted(SOURCE.rglob("*.c"))]
    included = sorted([*INCLUDE.rglob("*.h"), *(path for path in SOURCE.rglob("*") if path.suffix in {".h", ".inc"})])
    if kernels:
        sources += [GENERATED / "kernels.S", GENERATED / "kernel_table.c"]
        included += sorted(path for path in GENERATED.rglob("*") if path.suffix in {".h", ".cubin"})
    shared, folder = shared_digest(included), objects_folder(flags)
    with concurrent.futures.ThreadPoolExecutor(CORES) as pool:
        return list(pool.map(lambda source: compile_one(source, flags, shared, folder), sources))


def is_current(made: Path, key: str) -> bool:
    stamp = BUILD / "links" / digest(str(made.resolve()))[:12]
    return made.exists() and stamp.exists() and stamp.read_text() == key


def remember(made: Path, key: str) -> None:
    stamp = BUILD / "links" / digest(str(made.resolve()))[:12]
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(key)


def link(objects: Objects, made: Path, *, sanitize: bool = False, release: bool = False) -> None:
    """The shared library, unless it is that of these objects already."""
    # A sanitizer's own symbols come from the program that loads the library: then some stay undefined.
    flags = [*LINK_FLAGS, *(SANITIZERS if sanitize else ["-Wl,-z,defs"])]
    linker = release_linker() if release else [compiler()]
    key = digest(EXPORTS, *linker, *flags, *(key for _, key in objects))
    if is_current(made, key):
        return
    made.parent.mkdir(parents=True, exist_ok=True)
    fresh = made.with_name(f"{made.name}.{os.getpid()}")  # renamed at the end: a process may have the old file mapped
    files = [str(file) for file, _ in objects]
    caches = {
        name: os.environ.get(name, str(BUILD / "zig")) for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")
    }
    run([*linker, *flags, "-o", fresh, *files, *LIBRARIES], title=f"ld {os.path.relpath(made, ROOT)}", **caches)
    fresh.replace(made)
    remember(made, key)


def has_release_linker() -> bool:
    return importlib.util.find_spec("ziglang") is not None


def release_linker() -> list[str]:
    """Zig's compiler driver, which brings glibc of RELEASE_GLIBC to link against.

    The objects are the system compiler's, so that releases run the code that was tested and timed.
    """
    return [sys.executable, "-m", "ziglang", "cc", "-target", f"{platform.machine()}-linux-gnu.{RELEASE_GLIBC}"]


def archive(objects: Objects, made: Path) -> None:
    """The static library, of one object, in which symbols that are not public are local.

    Operations register themselves in a section, which no symbol names: of many objects, a linker would leave those out
    that a program does not call.
    """
    key = digest("archive", *(key for _, key in objects))
    if is_current(made, key):
        return
    made.parent.mkdir(parents=True, exist_ok=True)
    whole = made.with_name("flashmla.o")
    files = [str(file) for file, _ in objects]
    run([compiler(), "-r", "-nostdlib", "-o", whole, *files], title=f"ld -r {os.path.relpath(whole, ROOT)}")
    run(["objcopy", "--localize-hidden", whole], title=f"objcopy {os.path.relpath(whole, ROOT)}")
    made.unlink(missing_ok=True)
    run(["ar", "rcsD", made, whole], title=f"ar {os.path.relpath(made, ROOT)}")
    remember(made, key)


def has_kernels() -> bool:
    return (GENERATED / "kernels.S").exists() and (GENERATED / "kernel_table.c").exists()


def kernels_wanted(*, cpu_only: bool) -> bool:
    """Whether GPU kernels go in; says why not."""
    if cpu_only or not has_kernels():
        say("CPU only: " + ("as asked" if cpu_only else "no compiled GPU kernels in libflashmla/generated"))
        return False
    return True


def make_cdef() -> None:
    """cffi's description of the header, remade when the header or its maker changed."""
    maker = ROOT / "bindings" / "make_cdef.py"
    output, stamp = PACKAGE / "_cdef.py", BUILD / "cdef.key"
    key = digest(*sorted(INCLUDE.rglob("*.h")), maker)
    if output.exists() and stamp.exists() and stamp.read_text() == key:
        return
    spec = importlib.util.spec_from_file_location("make_cdef", maker)
    assert spec is not None and spec.loader is not None  # noqa: PT018 - for mypy
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write(HEADER, INCLUDE, output, compiler())
    stamp.write_text(key)


def has_cffi() -> bool:
    return importlib.util.find_spec("cffi") is not None


def build_library(
    *,
    sanitize: bool = False,
    debug: bool = False,
    cpu_only: bool = False,
    out: Path | None = None,
    edited: Mapping[Path, Path] | None = None,
) -> Path:
    """The library with the kernels at hand: in the Python package, or in `out` for other uses."""
    with one_build_at_a_time():
        kernels = kernels_wanted(cpu_only=cpu_only)
        flags = compile_flags(sanitize=sanitize, debug=debug, kernels=kernels)
        library = (out or PACKAGE) / SONAME
        link(compile_objects(flags, kernels=kernels, edited=edited), library, sanitize=sanitize)
        if out is not None:
            link_to(library, out / "libflashmla.so")
            return library
        link_to(library, BUILD / "libflashmla.so")
        if has_cffi():
            make_cdef()
        else:
            say("cffi is not installed: flashmla/_cdef.py, which the Python package needs, is not made")
    return library
