"""Calls of dense_decode and plan_decode on tensors that exist by their shapes only."""

from __future__ import annotations

import c_abi
import shape_only
from ops.dense_decode.calls import decode_fields, plan_fields
from ops.dense_decode.case import Case
from shape_only import CUDA

NAMES = ("q", "kv_cache", "block_table", "cache_seqlens", "out", "lse", "cu_seqlens_q", "global_seqlens", "attn_sink")
NAMES += ("descale_q", "descale_k", "q_rope")
ADDRESSES = shape_only.addresses(*NAMES) | shape_only.SCRATCH
# Several tiles of two row blocks, more pages than processors.
STEP = Case(s_q=2, h_q=64, num_blocks=100, max_blocks=40, lengths=(1,) * 8, given=("lse",))


def strides(case: Case, name: str) -> tuple[int, ...]:
    """In elements, by the case's layout."""
    return getattr(case.layouts, name).strides(case.shapes()[name], case.granule_of(name))


def tensor(case: Case, name: str, device: tuple[int, int]) -> c_abi.CTensor:
    code = c_abi.DTYPE_CODES[case.dtype_of(name)]
    return c_abi.CTensor(ADDRESSES[name], device, code, list(case.shapes()[name]), list(strides(case, name)))


def plan_call(case: Case, device: tuple[int, int] = (CUDA, 0), **fields) -> c_abi.CCall:
    """plan_decode of the case, but for its buffer."""
    not_of_plans = {"global_seqlens", "attn_sink", "descale_q", "descale_k"}
    tensors = {name: tensor(case, name, device) for name in case.inputs if name not in not_of_plans}
    return c_abi.CCall("plan_decode", tensors, plan_fields(case) | fields)


def decode_call(case: Case, device: tuple[int, int] = (CUDA, 0), plan=None, **fields) -> c_abi.CCall:
    """dense_decode of the case, but for its workspace; lse is given if the case gives it."""
    names = (*case.inputs, "out", *(["lse"] if "lse" in case.given else []))
    call = c_abi.CCall("dense_decode", {name: tensor(case, name, device) for name in names}, decode_fields(case))
    if plan is not None:
        call.fields["plan"] = plan
    call.fields |= fields
    return call
