"""Finds and opens libflashmla, and refuses one of another binary interface.

Searched in this order: the file that FLASHMLA_LIBRARY names (then nothing else), the file packaged beside this module,
the system's library path.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flashmla._cdef import ffi
from flashmla.errors import ABIMismatchError

ABI_VERSION: int = ffi.integer_const("FLASHMLA_ABI_VERSION")
SONAME = f"libflashmla.so.{ABI_VERSION}"
VERSION = ".".join(str(ffi.integer_const(f"FLASHMLA_VERSION_{part}")) for part in ("MAJOR", "MINOR", "PATCH"))


def candidates() -> list[str]:
    """Names to open, best first; one without a slash is looked up by the dynamic loader."""
    forced = os.environ.get("FLASHMLA_LIBRARY")
    if forced:
        return [forced]
    packaged = Path(__file__).with_name(SONAME)
    return [*([str(packaged)] if packaged.exists() else []), SONAME]


def mapped_path(name: str) -> str:
    """The file that the dynamic loader took for `name`."""
    if "/" in name:
        return str(Path(name).resolve())
    with Path("/proc/self/maps").open() as maps:
        for line in maps:
            if line.rstrip().endswith(f"/{name}"):
                return line.split(maxsplit=5)[5].rstrip()
    return name


def load() -> tuple[Any, str]:
    """The opened library and its path. ImportError if there is none, ABIMismatchError if it is of another ABI."""
    failures = []
    for name in candidates():
        try:
            lib = ffi.dlopen(name)
        except OSError as error:
            failures.append(str(error))
            continue
        path = mapped_path(name)
        try:
            found = lib.flashmla_abi_version()
        except ffi.error:
            failures.append(f"{path}: not libflashmla, flashmla_abi_version is missing")
            continue
        if found != ABI_VERSION:
            raise ABIMismatchError(f"{path} has ABI {found}, this package was made for ABI {ABI_VERSION}")
        return lib, path
    forced = "FLASHMLA_LIBRARY is set: " if os.environ.get("FLASHMLA_LIBRARY") else ""
    raise ImportError(f"{SONAME} cannot be loaded: {forced}" + "; ".join(failures))


lib, PATH = load()


def function(name: str) -> Any:
    """A function that was added to the ABI later, as cffi's; None where the library does not have it."""
    try:
        return getattr(lib, name)
    except (AttributeError, ffi.error):
        return None
