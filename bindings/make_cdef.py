"""Makes flashmla/_cdef.py, cffi's out-of-line ABI-mode description, from the public C header.

The preprocessor expands the header and those that it includes (FLASHMLA_CDEF leaves out what it does not need of
DLPack; the attribute macros become nothing); integer `#define`s, which it would swallow, are added back as cffi
constants. Needs cffi and a C compiler.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

_CONSTANT = re.compile(r"^#define (FLASHMLA_\w+ (?:-?\d+|0x[0-9A-Fa-f]+))$", re.MULTILINE)


def declarations(header: Path, include_dir: Path, compiler: str) -> str:
    """The header as cffi reads it: no directives, no attributes, integer constants kept."""
    preprocess = [compiler, "-E", "-x", "c", f"-I{include_dir}", str(header)]

    def output_of(*options: str) -> str:
        return subprocess.run([*preprocess, *options], check=True, capture_output=True, text=True).stdout

    constants = "".join(f"#define {constant}\n" for constant in sorted(_CONSTANT.findall(output_of("-dM"))))
    expanded = output_of("-P", "-DFLASHMLA_CDEF", "-DFLASHMLA_API=", "-DFLASHMLA_CHECK=")
    # System headers are expanded too; cffi knows their integer types, so ours begin at the first DLPack type.
    start = expanded.rindex("typedef enum", 0, expanded.index("kDLCPU"))
    return constants + expanded[start:]


def write(header: Path, include_dir: Path, output: Path, compiler: str) -> None:
    """Writes the module at once or not at all, so that a concurrent import never sees half a file."""
    from cffi import FFI  # noqa: PLC0415 - the rest of build.py runs where cffi is not installed

    ffi = FFI()
    ffi.set_source("flashmla._cdef", None)
    ffi.cdef(declarations(header, include_dir, compiler))
    with tempfile.TemporaryDirectory(dir=output.parent) as scratch:
        made = Path(scratch) / output.name
        with contextlib.redirect_stdout(sys.stderr):  # it reports what it writes
            ffi.emit_python_code(str(made))
        made.replace(output)
