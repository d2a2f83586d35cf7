"""The hook of hatchling: the compiled library and what C users need go into a wheel, tagged for the glibc it needs."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from buildtools import install, library
from buildtools.environments import ensure_kernels
from buildtools.tree import BUILD, SONAME, one_build_at_a_time, say

CPU_ONLY = "FLASHMLA_BUILD_CPU_ONLY"  # 1: no GPU kernels


def glibc_needed(file: Path) -> tuple[int, int]:
    """The newest symbol version of glibc that an ELF file needs; (0, 0) if it needs none."""
    listed = subprocess.run(["readelf", "-VW", file], check=True, capture_output=True, text=True).stdout
    found = re.findall(r"Name: GLIBC_(\d+)\.(\d+)", listed)
    return max(((int(major), int(minor)) for major, minor in found), default=(0, 0))


def tag(file: Path) -> str:
    """The wheel's tag: installers take the wheel only where that glibc is (PEP 600)."""
    major, minor = glibc_needed(file)
    if major == 0:  # another C library
        return f"py3-none-{re.sub(r'[-.]', '_', sysconfig.get_platform())}"
    release = tuple(map(int, library.RELEASE_GLIBC.split(".")))
    major, minor = max((major, minor), release)
    return f"py3-none-manylinux_{major}_{minor}_{platform.machine()}"


def files_for_c_users() -> dict[str, str]:
    """Source -> place in the wheel of headers, pkg-config file and CMake files; `flashmla/` is their prefix."""
    files = {str(header): f"flashmla/{place}" for header, place in install.headers().items()}
    for place, text in install.described(libraries=".", texts="lib", link=f"-l:{SONAME}").items():
        made = BUILD / "wheel" / Path(place).name
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(text)
        files[str(made)] = f"flashmla/{place}"
    return files


def build_for_wheel(*, cpu_only: bool) -> Path:
    """The library, linked for the glibc of releases where the linker for that is installed, else for this machine's."""
    made = BUILD / "wheel" / ("cpu" if cpu_only else "all") / SONAME
    release = library.has_release_linker()
    if not release:
        say("ziglang is not installed (extra [release]): the wheel needs the glibc of this machine")
    with one_build_at_a_time():
        kernels = library.kernels_wanted(cpu_only=cpu_only)
        flags = library.compile_flags(sanitize=False, debug=False, kernels=kernels)
        library.link(library.compile_objects(flags, kernels=kernels), made, release=release)
        library.make_cdef()
    return made


def switched_on(variable: str) -> bool:
    value = os.environ.get(variable, "")
    if value not in {"", "0", "1"}:
        raise SystemExit(f"{variable} is {value!r}; it must be 1, 0 or empty")
    return value == "1"


def get_build_hook() -> type[Any]:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface  # noqa: PLC0415

    class LibraryHook(BuildHookInterface):  # type: ignore[misc] # hatchling is not installed where mypy runs
        PLUGIN_NAME = "custom"

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            cpu_only = switched_on(CPU_ONLY)
            if not cpu_only:
                ensure_kernels()
            if self.target_name != "wheel":  # compiled kernels travel along in a source distribution
                library.kernels_wanted(cpu_only=False)
                return
            build_data["pure_python"] = False
            if version == "editable":  # the package is used where it lies
                build_data["tag"] = tag(library.build_library(cpu_only=cpu_only))
                return
            made = build_for_wheel(cpu_only=cpu_only)
            build_data["tag"] = tag(made)
            build_data["force_include"][str(made)] = f"flashmla/{SONAME}"
            build_data["force_include"].update(files_for_c_users())

    return LibraryHook
