"""Calls on tensors that exist by their shapes only, for whatever looks at shapes and addresses and not at elements."""

from __future__ import annotations

import c_abi
from cases import Case

CPU, CUDA = 1, 2  # DLPack's device types
# A terabyte each, so that no tensor reaches into the next; 64-byte aligned, like an allocator's.
ADDRESSES = {
    name: (number + 1) << 40
    for number, name in enumerate(
        ("q", "kv_cache", "block_table", "cache_seqlens", "out", "lse", "workspace", "buffer")
    )
}
# Several tiles of two row blocks, more pages than processors.
STEP = Case(s_q=2, h_q=128, num_blocks=100, max_blocks=40, lengths=(1,) * 8, given=("lse",))
INPUTS = ("q", "kv_cache", "block_table", "cache_seqlens")


def strides(case: Case, name: str) -> tuple[int, ...]:
    """In elements, by the case's layout."""
    granule = case.granule if name in {"q", "kv_cache", "out"} else 1
    return getattr(case.layouts, name).strides(case.shapes()[name], granule)


def tensor(case: Case, name: str, device: tuple[int, int]) -> c_abi.CTensor:
    dtype = {"block_table": "int32", "cache_seqlens": "int32", "lse": "float32"}.get(name, case.dtype)
    code = c_abi.DTYPE_CODES[dtype]
    return c_abi.CTensor(ADDRESSES[name], device, code, list(case.shapes()[name]), list(strides(case, name)))


def plan_call(case: Case, device: tuple[int, int] = (CUDA, 0), **fields) -> c_abi.CCall:
    """plan_decode of the case, but for its buffer."""
    tensors = {name: tensor(case, name, device) for name in INPUTS}
    flags = c_abi.constant("CAUSAL") if case.causal else 0
    return c_abi.CCall("plan_decode", tensors, {"flags": flags, "num_splits": case.num_splits} | fields)


def decode_call(case: Case, device: tuple[int, int] = (CUDA, 0), plan=None, **fields) -> c_abi.CCall:
    """dense_decode of the case, but for its workspace; lse is given if the case gives it."""
    names = (*INPUTS, "out", *(["lse"] if "lse" in case.given else []))
    call = c_abi.CCall("dense_decode", {name: tensor(case, name, device) for name in names})
    call.fields["flags"] = (c_abi.constant("CAUSAL") if case.causal else 0) | (
        c_abi.constant("DEFAULT_SCALE") if case.softmax_scale is None else 0
    )
    if case.softmax_scale is not None:
        call.fields["softmax_scale"] = case.softmax_scale
    if plan is not None:
        call.fields["plan"] = plan
    call.fields |= fields
    return call


def run(call: c_abi.CCall, *outputs) -> int:
    """Asks for the size of the scratch, gives as much, and runs: the first status that is a failure."""
    status, size = call.size()
    if status:
        return status
    name = "workspace" if call.operation == "dense_decode" else "buffer"
    call.fields |= {name: ADDRESSES[name], f"{name}_size": size}
    return call.run(*outputs)
