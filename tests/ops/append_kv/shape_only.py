"""Calls of append_kv and quantize_kv on tensors that exist by their shapes only."""

from __future__ import annotations

import c_abi
import shape_only
from ops.append_kv import calls
from ops.append_kv.calls import ROPE_COLUMNS, WriteCase
from shape_only import CUDA

ADDRESSES = shape_only.addresses("cache", "latent", "rope", "slot_mapping")


def write_call(case: WriteCase, device: tuple[int, int] = (CUDA, 0), operation: str = "append_kv") -> c_abi.CCall:
    """A call of a WriteCase, all of whose tensors are compact."""

    def made(name: str, dtype: str, *shape: int) -> c_abi.CTensor:
        return c_abi.CTensor(ADDRESSES[name], device, c_abi.DTYPE_CODES[dtype], list(shape), None)

    appends = operation == "append_kv"
    cache = made("cache", case.cache_dtype if case.format else case.dtype, *case.cache_shape)
    rope = ROPE_COLUMNS if case.split else 0
    tensors = {"kv_cache" if appends else "out": cache}
    tensors["latent"] = made("latent", case.dtype, case.num_tokens, case.columns - rope)
    if rope:
        tensors["rope"] = made("rope", case.dtype, case.num_tokens, rope)
    if appends:
        tensors["slot_mapping"] = made("slot_mapping", case.slot_dtype, case.num_tokens)
    return c_abi.CCall(operation, tensors, calls.fields(case))
