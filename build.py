#!/usr/bin/env python3
"""Builds libflashmla and runs its demo and tests: `python3 build.py lib | demo | test | wheel | clean`.

`demo` and `test` make `.venv`, install the pinned extras of pyproject.toml there, compile the GPU kernels and the
library, and do their job; the second time what did not change is skipped. Only the standard library is needed to start.
hatchling finds its wheel hook here too.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import ctypes
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

ROOT = Path(__file__).resolve().parent
INCLUDE = ROOT / "libflashmla" / "include"
HEADER = INCLUDE / "flashmla" / "flashmla.h"
SOURCE = ROOT / "libflashmla" / "src"
GENERATED = ROOT / "libflashmla" / "generated"
EXPORTS = ROOT / "libflashmla" / "flashmla.map"
PACKAGE = ROOT / "bindings" / "python" / "flashmla"
BUILD = ROOT / "build"
SONAME = "libflashmla.so.2"
CORES = len(os.sched_getaffinity(0))

C_FLAGS = [
    *("-std=c11", "-D_GNU_SOURCE", "-fPIC", "-fvisibility=hidden"),
    *("-Wall", "-Wextra", "-Werror", f"-I{INCLUDE}", f"-I{SOURCE}", f"-I{GENERATED}"),
]
LINK_FLAGS = [
    *("-shared", f"-Wl,-soname,{SONAME}", f"-Wl,--version-script={EXPORTS}", "-Wl,-z,noexecstack", "-Wl,--as-needed"),
    "-Wl,-z,nodelete",  # idle worker threads of the CPU backend run its code
]
LIBRARIES = ["-lm", "-lpthread", "-ldl"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined"]


def say(text: str) -> None:
    """Progress goes to stderr: stdout belongs to the command's result."""
    print(text, file=sys.stderr, flush=True)


def run(command: Sequence[str | Path], *, title: str | None = None, **environment: str) -> None:
    """Runs a command in the root of the tree and stops the build if it fails; `title` is shown instead of it."""
    say(title or f"$ {shlex.join(map(str, command))}")
    status = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False).returncode
    if status != 0:
        raise SystemExit(status)


def digest(*parts: str | bytes | Path) -> str:
    """One hash over texts and the contents of files."""
    state = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()


@contextlib.contextmanager
def one_build_at_a_time() -> Iterator[None]:
    """Parallel test workers may ask for the same library."""
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# -------------------------------------------------------------------------------------------------------------- library
def compiler() -> str:
    found = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if not found:
        raise SystemExit("build.py: no C compiler: install gcc or set CC")
    return found


def compile_flags(*, sanitize: bool, debug: bool, kernels: bool) -> list[str]:
    flags = [*C_FLAGS, "-O1" if sanitize or debug else "-O3"]
    if sanitize or debug:
        flags.append("-g")
    if sanitize:
        flags += SANITIZERS
    if not kernels:
        flags.append("-DFLASHMLA_CPU_ONLY")
    return flags


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


def shared_digest(headers: Sequence[Path]) -> str:
    """The hash of what every object is made from besides its source and flags."""
    version = subprocess.run([compiler(), "--version"], check=True, capture_output=True, text=True).stdout
    return digest(version, *headers)


def compile_library(
    out: Path, *, sanitize: bool, debug: bool, kernels: bool, edited: Mapping[Path, Path] | None = None
) -> Path:
    """Compiles what changed and links `out`/libflashmla.so.2; `edited`: C files to compile in place of others."""
    flags = compile_flags(sanitize=sanitize, debug=debug, kernels=kernels)
    sources = [(edited or {}).get(source, source) for source in sorted(SOURCE.rglob("*.c"))]
    included = sorted([*INCLUDE.rglob("*.h"), *(path for path in SOURCE.rglob("*") if path.suffix in {".h", ".inc"})])
    if kernels:
        sources += [GENERATED / "kernels.S", GENERATED / "kernel_table.c"]
        included += sorted(path for path in GENERATED.rglob("*") if path.suffix in {".h", ".cubin"})
    shared = shared_digest(included)
    folder = BUILD / "objects" / digest(*flags)[:12]
    folder.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(CORES) as pool:
        objects = list(pool.map(lambda source: compile_one(source, flags, shared, folder), sources))

    made = out / SONAME
    stamp = BUILD / "links" / digest(str(made.resolve()))[:12]
    # A sanitizer's own symbols come from the program that loads the library: then some stay undefined.
    link = [*LINK_FLAGS, *(SANITIZERS if sanitize else ["-Wl,-z,defs"])]
    key = digest(EXPORTS, *link, *(key for _, key in objects))
    if not (made.exists() and stamp.exists() and stamp.read_text() == key):
        fresh = made.with_suffix(f".{os.getpid()}")  # renamed at the end: a process may have the old file mapped
        files = [str(file) for file, _ in objects]
        run([compiler(), *link, "-o", fresh, *files, *LIBRARIES], title=f"ld {os.path.relpath(made, ROOT)}")
        fresh.replace(made)
        stamp.parent.mkdir(exist_ok=True)
        stamp.write_text(key)
    return made


def make_cdef() -> None:
    """cffi's description of the header, remade when the header or its maker changed."""
    maker = ROOT / "bindings" / "make_cdef.py"
    output, stamp = PACKAGE / "_cdef.py", BUILD / "cdef.key"
    key = digest(HEADER, maker)
    if output.exists() and stamp.exists() and stamp.read_text() == key:
        return
    spec = importlib.util.spec_from_file_location("make_cdef", maker)
    assert spec is not None and spec.loader is not None  # noqa: PT018 - for mypy
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write(HEADER, INCLUDE, output, compiler())
    stamp.write_text(key)


def link_to(target: Path, name: Path) -> None:
    """`name`, a symbolic link to `target`, replaced in one step."""
    fresh = name.with_suffix(f".{os.getpid()}")
    fresh.symlink_to(os.path.relpath(target, name.parent))
    fresh.replace(name)


def build_library(
    *,
    sanitize: bool = False,
    debug: bool = False,
    cpu_only: bool = False,
    out: Path | None = None,
    edited: Mapping[Path, Path] | None = None,
) -> Path:
    """The library with the kernels at hand: in the Python package, or in `out` for test builds."""
    with one_build_at_a_time():
        kernels = not cpu_only and (GENERATED / "kernels.S").exists() and (GENERATED / "kernel_table.c").exists()
        if not kernels:
            say("CPU only: " + ("as asked" if cpu_only else "no compiled GPU kernels in libflashmla/generated"))
        library = compile_library(out or PACKAGE, sanitize=sanitize, debug=debug, kernels=kernels, edited=edited)
        if out is None:
            make_cdef()
            link_to(library, BUILD / "libflashmla.so")
        else:
            link_to(library, out / "libflashmla.so")
    return library


# ---------------------------------------------------------------------------------------------------------------- wheel
def version() -> str:
    """Version of the header, the only place that holds it; pyproject.toml asks here."""
    text = HEADER.read_text()
    numbers = [re.search(rf"#define FLASHMLA_VERSION_{part} (\d+)", text) for part in ("MAJOR", "MINOR", "PATCH")]
    return ".".join(number[1] for number in numbers if number)


def files_for_c_users() -> dict[str, str]:
    """Source -> place in the wheel of header, pkg-config file and CMake files; `flashmla/` is their prefix."""
    files = {str(HEADER): "flashmla/include/flashmla/flashmla.h"}
    for template, place in [
        ("flashmla.pc.in", "lib/pkgconfig/flashmla.pc"),
        ("cmake/flashmla-config.cmake.in", "lib/cmake/flashmla/flashmla-config.cmake"),
        ("cmake/flashmla-config-version.cmake.in", "lib/cmake/flashmla/flashmla-config-version.cmake"),
    ]:
        prefix = "/".join([".."] * place.count("/"))
        text = (ROOT / "libflashmla" / template).read_text()
        for name, value in {"VERSION": version(), "LIBDIR": prefix, "INCLUDEDIR": f"{prefix}/include"}.items():
            text = text.replace(f"@{name}@", value)
        made = BUILD / "wheel" / Path(place).name
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(text)
        files[str(made)] = f"flashmla/{place}"
    return files


def get_build_hook() -> type[Any]:
    """hatchling's entry: the hook that puts the compiled library and what C users need into the wheel."""
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface  # noqa: PLC0415

    class LibraryHook(BuildHookInterface):  # type: ignore[misc] # hatchling is not installed where mypy runs
        PLUGIN_NAME = "custom"

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            del version
            if self.target_name != "wheel":
                return
            ensure_kernels()
            build_library()
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{re.sub(r'[-.]', '_', sysconfig.get_platform())}"
            build_data["force_include"].update(files_for_c_users())

    return LibraryHook


# --------------------------------------------------------------------------------------------- environments and kernels
def extras(*names: str) -> list[str]:
    """The requirements that pyproject.toml pins: the package's own and those of the named extras."""
    try:
        toml = importlib.import_module("tomllib")
    except ModuleNotFoundError:  # Python 3.10
        toml = importlib.import_module("pip._vendor.tomli")
    project = toml.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    return [*project["dependencies"], *(requirement for name in names for requirement in optional[name])]


def ensure_venv(name: str, requirements: Sequence[str]) -> Path:
    """The interpreter of virtual environment `name`, with the requirements installed; remembered by a stamp."""
    folder = ROOT / name
    python = folder / "bin" / "python"
    stamp = folder / f"installed-{digest(*requirements)[:12]}"
    if stamp.exists():
        return python
    has_pip = importlib.util.find_spec("ensurepip") is not None
    if not python.exists():
        # Debian splits ensurepip off python3: without it the outer pip installs into the environment.
        run([sys.executable, "-m", "venv", *(() if has_pip else ("--without-pip",)), folder])
    pip: list[str | Path] = [python, "-m", "pip"] if has_pip else [sys.executable, "-m", "pip", "--python", python]
    run([*pip, "install", "--disable-pip-version-check", *requirements])
    for libraries in folder.glob("lib/python3.*/site-packages"):
        (libraries / "flashmla-checkout.pth").write_text(f"{PACKAGE.parent}\n")
    stamp.write_text("\n".join(requirements) + "\n")
    return python


def enter_venv(requirements: Sequence[str]) -> None:
    """Goes on inside `.venv`: replaces this process unless it runs there already."""
    python = ensure_venv(".venv", requirements)
    if Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        os.execv(python, [str(python), str(ROOT / "build.py"), *sys.argv[1:]])


def ensure_kernels() -> None:
    """Compiles the GPU kernels where the kernel compiler is installed; `aot` skips what did not change."""
    if not (ROOT / "aot" / "__main__.py").exists():
        return
    try:
        importlib.metadata.version("nvidia-cutlass-dsl")
    except importlib.metadata.PackageNotFoundError:
        say("nvidia-cutlass-dsl is not installed (extra [aot]): the GPU kernels are not compiled anew")
        return
    run([sys.executable, "-m", "aot", "build"])


# ------------------------------------------------------------------------------------------------------------- commands
def command_lib(options: argparse.Namespace) -> None:
    if options.out is None and importlib.util.find_spec("cffi") is None:
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


def has_driver() -> bool:
    """A CUDA driver is installed."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def command_demo(options: argparse.Namespace) -> None:
    enter_venv(extras("aot", "demo", *(["demo-gpu"] if has_driver() else [])))
    ensure_kernels()
    build_library()
    run([sys.executable, "examples/python/serve.py", *options.rest])


def c_files() -> list[Path]:
    """The C sources that are written by hand."""
    found = [
        path
        for folder in (ROOT / "libflashmla", ROOT / "tests", ROOT / "examples")
        for path in folder.rglob("*")
        if path.suffix in {".c", ".h", ".inc"} and GENERATED not in path.parents
    ]
    return sorted(path for path in found if not path.read_text().startswith("/* Generated"))


def shell_scripts() -> list[Path]:
    return [ROOT / ".ci" / "run", *sorted(path for path in ROOT.glob("[!.]*/**/*.sh") if BUILD not in path.parents)]


def lint() -> None:
    """Style and types of everything that is written by hand."""
    with one_build_at_a_time():
        make_cdef()  # mypy follows it
    tools = Path(sys.executable).parent
    run([sys.executable, "-m", "ruff", "check", "."])
    run([sys.executable, "-m", "ruff", "format", "--check", "."])
    run([sys.executable, "-m", "mypy"])
    run([tools / "clang-format", "--dry-run", "-Werror", *c_files()], title="$ clang-format --dry-run -Werror")
    run([tools / "shellcheck", *shell_scripts()], title="$ shellcheck")


def command_test(options: argparse.Namespace) -> None:
    enter_venv(extras("aot", "test"))
    lint()
    ensure_kernels()
    build_library()
    profile = os.environ.get("HYPOTHESIS_PROFILE", "ci")
    workers = ["-n", str(min(CORES, 4))] if CORES > 1 else []
    run([sys.executable, "-m", "pytest", *workers, *options.rest], HYPOTHESIS_PROFILE=profile)


def command_wheel(options: argparse.Namespace) -> None:
    enter_venv(extras("aot"))
    ensure_kernels()
    run([sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--wheel-dir", "dist", *options.rest])


def command_clean(_: argparse.Namespace) -> None:
    """Removes what builds made; the environments stay (delete .venv* to remake them)."""
    for made in [BUILD, ROOT / "dist", GENERATED]:
        shutil.rmtree(made, ignore_errors=True)
    for made in [PACKAGE / "_cdef.py", *PACKAGE.glob("*.so*")]:
        made.unlink(missing_ok=True)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="build.py", description=__doc__.split("\n\n")[0] if __doc__ else None)
    commands = parser.add_subparsers(required=True, metavar="command")
    lib = commands.add_parser("lib", help="build the shared library into the Python package")
    lib.add_argument("--sanitize", action="store_true", help="AddressSanitizer and UBSan (tests only; give --out)")
    lib.add_argument("--debug", action="store_true", help="-O1 -g")
    lib.add_argument("--cpu-only", action="store_true", help="leave the GPU kernels out")
    lib.add_argument("--out", type=Path, metavar="DIR", help="write libflashmla.so.2 there instead")
    lib.set_defaults(action=command_lib)
    for name, action, text in [
        ("demo", command_demo, "serve a request trace; further arguments go to examples/python/serve.py"),
        ("test", command_test, "lint, types and all tests; arguments after -- go to pytest"),
        ("wheel", command_wheel, "make a wheel in dist/"),
        ("clean", command_clean, "remove what builds made"),
    ]:
        commands.add_parser(name, help=text).set_defaults(action=action)
    options, rest = parser.parse_known_args(arguments)
    options.rest = [argument for argument in rest if argument != "--"]
    if rest and options.action in {command_lib, command_clean}:
        parser.error(f"unknown arguments: {shlex.join(rest)}")
    if getattr(options, "sanitize", False) and options.out is None:
        parser.error("--sanitize makes a test library: give --out DIR")
    return options


def main() -> None:
    if sys.version_info < (3, 10):  # noqa: UP036 - whoever starts it may have any
        raise SystemExit(f"build.py: Python 3.10 or newer is needed, this is {sys.version.split()[0]}")
    options = parse(sys.argv[1:])
    options.action(options)


if __name__ == "__main__":
    main()
