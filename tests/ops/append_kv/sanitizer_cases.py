"""Small calls that launch the kernel of the writers in all its manners; see gpu/sanitizer_cases.py."""

from __future__ import annotations

import c_abi
from gpu.kernel_rows import last_kernel
from ops.append_kv import calls, strategies
from ops.append_kv.calls import WriteCase
from ops.append_kv.shape_only import write_call


def write_cases() -> list[WriteCase]:
    """Few tokens and many, of every format and element type."""
    return [
        WriteCase(kv_format, dtype, num_tokens=num_tokens, num_blocks=9, page_size=64)
        for kv_format in strategies.FORMATS
        for dtype in ("bfloat16", "float16")
        for num_tokens in (33, 600)
    ]


def check_all(backend) -> None:
    """Runs them on a GPU."""
    for case in write_cases():
        calls.check(case, backend)
        assert last_kernel() == "write_kv"


def launch_all(tell) -> None:
    """Launches them with made-up tensors; tells the kernel that should run, and the one that ran."""
    for case in write_cases():
        if write_call(case).run():
            raise SystemExit(c_abi.last_error())
        tell("write_kv", last_kernel(), False)
