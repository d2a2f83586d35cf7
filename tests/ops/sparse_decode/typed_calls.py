"""Checked by mypy, never run: what sparse_decode takes and returns."""

from typing import Any, assert_type  # type: ignore[attr-defined] # assert_type: Python 3.11

import numpy as np
import torch
from numpy.typing import NDArray

import flashmla


def a_decode(
    q: NDArray[np.float16], kv_cache: NDArray[np.float16], slots: NDArray[np.int64], ints: NDArray[np.int32]
) -> None:
    out, lse = flashmla.sparse_decode(q, kv_cache, slots, topk_length=ints)
    assert_type(out, NDArray[np.float16])
    assert_type(lse, Any)  # float32, whatever q is
    assert_type(flashmla.sparse_decode(q, kv_cache, slots, return_lse=False), NDArray[np.float16])
    flashmla.sparse_decode(q, kv_cache, slots, cu_seqlens_q=ints, max_seqlen_q=4, attn_sink=lse, softmax_scale=0.1)
    flashmla.sparse_decode(q, kv_cache, slots, extra_kv_cache=kv_cache, extra_indices=slots, extra_topk_length=ints)
    flashmla.sparse_decode(q, kv_cache, slots, out=out, lse=lse, workspace=lse, stream=0, num_threads=2)
    flashmla.sparse_decode(q, kv_cache, slots, batch_invariant=True, lse_base2=True, empty_lse=float("-inf"))
    plan = flashmla.plan_sparse_decode(
        q, slots, topk_length=ints, extra_indices=slots, num_splits=2, buffer=lse, stream=0
    )
    assert_type(plan, flashmla.Plan)
    flashmla.sparse_decode(q, kv_cache, slots, plan=plan)
    assert_type(flashmla.plan_sparse_decode_size(q, slots, cu_seqlens_q=ints, max_seqlen_q=4), int)
    assert_type(flashmla.prepare(flashmla.plan_sparse_decode, q, slots), flashmla.Prepared)
    flashmla.plan_sparse_decode(q, kv_cache, slots)  # type: ignore[call-arg]
    assert_type(flashmla.sparse_decode_workspace_size(q, kv_cache, slots, plan=plan), int)
    assert_type(flashmla.sparse_decode_workspace_size(q, kv_cache, slots, topk_length=ints), int)
    assert_type(flashmla.prepare(flashmla.sparse_decode, q, kv_cache, slots), flashmla.Prepared)
    flashmla.sparse_decode(q, kv_cache, slots, ints)  # type: ignore[call-overload]
    flashmla.sparse_decode(q, kv_cache, slots, causal=True)  # type: ignore[call-overload]
    flashmla.sparse_decode(q, kv_cache, slots, kv_format="v33")  # type: ignore[call-overload]


def bytes_of_torch(q: torch.Tensor, pages: torch.Tensor, slots: torch.Tensor) -> None:
    out, _ = flashmla.sparse_decode(q, pages, slots, kv_format="model1", extra_kv_format="v41", out_dtype=torch.float32)
    assert_type(out, torch.Tensor)
