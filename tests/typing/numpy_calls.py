"""Checked by mypy, never run: what the functions take and return for NumPy arrays."""

from typing import Any, assert_type  # type: ignore[attr-defined] # assert_type: Python 3.11

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

import flashmla


def a_decode(
    q: NDArray[np.float32], kv_cache: NDArray[np.float32], table: NDArray[np.int32], lengths: NDArray[np.int32]
) -> None:
    out, lse = flashmla.dense_decode(q, kv_cache, table, lengths, causal=True, return_lse=True)
    assert_type(out, NDArray[np.float32])
    assert_type(lse, Any)
    assert_type(flashmla.dense_decode(q, kv_cache, table, lengths, return_lse=False), NDArray[np.float32])
    for dtype in (np.float32, np.dtype("float32"), np.dtype(np.float16), ml_dtypes.bfloat16):
        flashmla.dense_decode(q, kv_cache, table, lengths, out_dtype=dtype)
    flashmla.dense_decode(q, kv_cache, table, lengths, out_dtype="bfloat16")
    flashmla.dense_decode(q, kv_cache, table, lengths, out_dtype="double")  # type: ignore[call-overload]
    merged, _ = flashmla.merge_states([out, out], [lse, lse], out_dtype=np.float32)
    assert_type(merged, Any)
    flashmla.merge_states(out, lse, stacked=True, return_lse=False)


def a_pool(kv_cache: NDArray[np.float32], ids: NDArray[np.int64]) -> None:
    cache = flashmla.PagedKVCache([kv_cache], max_seqs=4, max_seq_len=1024)
    assert_type(cache.allocate(ids), tuple[int, int])
    assert_type(cache.append([cache.fork(1)], [2]), int)
    assert_type(cache.usage(), flashmla.PoolUsage)
    assert_type(flashmla.PagedKVCache.from_bytes(cache.to_bytes(), [kv_cache], max_seqs=4), flashmla.PagedKVCache)
    cache.truncate(1, "2")  # type: ignore[arg-type]
