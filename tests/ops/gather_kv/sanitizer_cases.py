"""Small calls that launch the kernel of the readers; see gpu/sanitizer_cases.py."""

from __future__ import annotations

import c_abi
from gpu.kernel_rows import last_kernel
from ops.append_kv.strategies import FORMATS
from ops.gather_kv import calls
from ops.gather_kv.calls import ReadCase
from ops.gather_kv.shape_only import read_call


def read_cases() -> list[ReadCase]:
    """Every format and element type, with rows of zeros among them."""
    return [
        ReadCase(kv_format, dtype, page_size=64, lengths=(70, 0, 100), starts=(3, 0, 150))
        for kv_format in FORMATS
        for dtype in ("bfloat16", "float16", "float32")
    ]


def check_all(backend) -> None:
    """Runs them on a GPU."""
    for case in read_cases():
        calls.check(case, backend)
        assert last_kernel() == "read_kv"


def launch_all(tell) -> None:
    """Launches them with made-up tensors; tells the kernel that should run, and the one that ran."""
    for case in read_cases():
        if read_call(case).run():
            raise SystemExit(c_abi.last_error())
        tell("read_kv", last_kernel(), False)
