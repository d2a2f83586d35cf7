"""Calls on tensors that exist by their shapes only, for whatever looks at shapes and addresses and not at elements."""

from __future__ import annotations

import c_abi
from cases import Case

CPU, CUDA = 1, 2  # DLPack's device types
NAMES = ("q", "kv_cache", "block_table", "cache_seqlens", "out", "lse", "workspace", "buffer")
NAMES += ("cu_seqlens_q", "global_seqlens")
# A terabyte each, so that no tensor reaches into the next; 64-byte aligned, like an allocator's.
ADDRESSES = {name: (number + 1) << 40 for number, name in enumerate(NAMES)}
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
    tensors = {name: tensor(case, name, device) for name in case.inputs if name != "global_seqlens"}
    return c_abi.CCall("plan_decode", tensors, c_abi.plan_fields(case) | fields)


def decode_call(case: Case, device: tuple[int, int] = (CUDA, 0), plan=None, **fields) -> c_abi.CCall:
    """dense_decode of the case, but for its workspace; lse is given if the case gives it."""
    names = (*case.inputs, "out", *(["lse"] if "lse" in case.given else []))
    call = c_abi.CCall("dense_decode", {name: tensor(case, name, device) for name in names}, c_abi.decode_fields(case))
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


def merge_call(case, device: tuple[int, int] = (CUDA, 0)) -> c_abi.CCall:
    """merge_states of a merging.MergeCase; listed parts lie in no even distance."""
    count = 1 if case.stacked else case.num_states
    leading = (case.num_states,) if case.stacked else ()

    def made(name: str, dtype: str, shape: tuple[int, ...], part: int = 0) -> c_abi.CTensor:
        address = ADDRESSES[name] + (part * part << 36)
        return c_abi.CTensor(address, device, c_abi.DTYPE_CODES[dtype], list(shape), None)

    tensors = {
        "outs": [made("q", case.dtype, (*leading, *case.out_shape), part) for part in range(count)],
        "lses": [made("kv_cache", "float32", (*leading, *case.lse_shape), part) for part in range(count)],
        "out": made("out", case.out_dtype or case.dtype, case.out_shape),
        "lse": made("lse", "float32", case.lse_shape),
    }
    return c_abi.CCall("merge_states", tensors, c_abi.merge_fields(case))
