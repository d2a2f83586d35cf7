"""Small calls that launch every merge_states kernel; see gpu/sanitizer_cases.py."""

from __future__ import annotations

import c_abi
from gpu.kernel_rows import last_kernel, rows_of
from ops.merge_states import calls
from ops.merge_states.calls import MergeCase
from ops.merge_states.shape_only import merge_call


def merge_cases() -> list[MergeCase]:
    """Calls of merge_states, listed and stacked."""
    base = MergeCase(num_states=3, batch=2, s_q=2, h_q=20, given=("out", "lse"))
    return [
        base.but(dtype=dtype, stacked=stacked, d_v=d_v)
        for dtype in ("bfloat16", "float16", "float32")
        for stacked in (False, True)
        for d_v in (512, 256, 24)
    ]


def check_all(backend) -> None:
    """Runs them on a GPU."""
    merged = set()
    for case in merge_cases():
        calls.check(case, backend)
        merged.add(last_kernel())
    missing = {row["name"] for row in rows_of("merge_states")} - merged
    assert not missing, f"never ran: {sorted(missing)}"


def launch_all(tell) -> None:
    """Launches them with made-up tensors; tells the kernel of the dtype, and the one that ran."""
    names = {row["dtype"]: row["name"] for row in rows_of("merge_states")}
    for case in merge_cases():
        if merge_call(case).run():
            raise SystemExit(c_abi.last_error())
        tell(names[case.dtype], last_kernel(), False)
