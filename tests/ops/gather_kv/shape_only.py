"""Calls of gather_kv and dequantize_kv on tensors that exist by their shapes only."""

from __future__ import annotations

import c_abi
import shape_only
from ops.gather_kv import calls
from ops.gather_kv.calls import ReadCase
from shape_only import CUDA

ADDRESSES = shape_only.addresses("kv_cache", "out", "block_table", "cu_seqlens", "seq_starts")


def read_call(case: ReadCase, device: tuple[int, int] = (CUDA, 0), operation: str = "gather_kv") -> c_abi.CCall:
    """A call of a ReadCase, all of whose tensors are compact."""

    def made(name: str, dtype: str, *shape: int) -> c_abi.CTensor:
        return c_abi.CTensor(ADDRESSES[name], device, c_abi.DTYPE_CODES[dtype], list(shape), None)

    batch = len(case.lengths)
    tensors = {
        "kv_cache": made("kv_cache", case.cache_dtype if case.format else case.dtype, *case.cache_shape),
        "out": made("out", case.dtype, case.num_tokens, case.columns),
    }
    if operation == "gather_kv":
        tensors["block_table"] = made("block_table", "int32", batch, case.max_blocks)
        tensors["cu_seqlens"] = made("cu_seqlens", "int32", batch + 1)
        if case.starts is not None:
            tensors["seq_starts"] = made("seq_starts", "int32", batch)
    return c_abi.CCall(operation, tensors, calls.fields(case))
