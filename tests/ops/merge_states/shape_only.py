"""Calls of merge_states on tensors that exist by their shapes only."""

from __future__ import annotations

import c_abi
import shape_only
from ops.merge_states.calls import MergeCase, merge_fields
from shape_only import CUDA

ADDRESSES = shape_only.addresses("outs", "lses", "out", "lse")


def merge_call(case: MergeCase, device: tuple[int, int] = (CUDA, 0)) -> c_abi.CCall:
    """merge_states of a MergeCase; listed parts lie in no even distance."""
    count = 1 if case.stacked else case.num_states
    leading = (case.num_states,) if case.stacked else ()

    def made(name: str, dtype: str, shape: tuple[int, ...], part: int = 0) -> c_abi.CTensor:
        address = ADDRESSES[name] + (part * part << 36)
        return c_abi.CTensor(address, device, c_abi.DTYPE_CODES[dtype], list(shape), None)

    tensors = {
        "outs": [made("outs", case.dtype, (*leading, *case.out_shape), part) for part in range(count)],
        "lses": [made("lses", "float32", (*leading, *case.lse_shape), part) for part in range(count)],
        "out": made("out", case.out_dtype or case.dtype, case.out_shape),
        "lse": made("lse", "float32", case.lse_shape),
    }
    return c_abi.CCall("merge_states", tensors, merge_fields(case))
