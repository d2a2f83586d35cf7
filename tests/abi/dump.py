"""Prints the binary interface of the built library as the public header declares it, one fact a line.

`python tests/abi/dump.py > tests/abi/abi-2.txt` records what was appended to ABI 2. That file only grows: a line that
changes or goes is an incompatible change, which takes a new FLASHMLA_ABI_VERSION, and so a new file. The one exception
is the size of a struct that begins with struct_size, which tells old callers from new ones: it may grow.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import build  # noqa: E402
from bindings import make_cdef  # noqa: E402

LIBRARY = build.PACKAGE / build.SONAME


def describe_type(ffi: FFI, name: str) -> list[str]:
    kind = ffi.typeof(name)
    if kind.kind == "enum":
        return [f"value {label} {number}" for number, label in sorted(kind.elements.items())]
    if kind.kind == "primitive":
        return [f"size {name} {ffi.sizeof(name)}"]
    if kind.fields is None:
        return [f"opaque {name}"]
    fields = [f"field {name}.{field} {about.offset} {about.type.cname}" for field, about in kind.fields]
    return [f"size {name} {ffi.sizeof(name)}", *fields]


def facts() -> list[str]:
    ffi = FFI()
    ffi.cdef(make_cdef.declarations(build.HEADER, build.INCLUDE, build.compiler()))
    library = ffi.dlopen(str(LIBRARY))
    types = [name for name in sorted(ffi.list_types()[0]) if name.startswith(("flashmla_", "DL"))]
    functions = [name for name in sorted(dir(library)) if name.startswith("flashmla_")]
    return [
        *(line for name in types for line in describe_type(ffi, name)),
        *(f"function {name} {ffi.typeof(getattr(library, name)).cname}" for name in functions),
    ]


def broken(recorded: list[str], current: list[str]) -> list[str]:
    """The recorded facts that do not hold any more."""
    size = {line.split()[1]: int(line.split()[2]) for line in current if line.startswith("size ")}
    may_grow = {name for name in size if f"field {name}.struct_size 0 uint32_t" in current}

    def holds(line: str) -> bool:
        kind, name, *rest = line.split()
        if kind == "size" and name in may_grow:
            return size.get(name, 0) >= int(rest[0])
        return line in current

    return [line for line in recorded if not holds(line)]


if __name__ == "__main__":
    print(*facts(), sep="\n")
