"""Checked by mypy, never run: what the functions take and return for PyTorch tensors."""

from typing import Any, assert_type  # type: ignore[attr-defined] # assert_type: Python 3.11

import torch

import flashmla
from flashmla.compat import flash_mla


def a_decode(q: torch.Tensor, kv_cache: torch.Tensor, table: torch.Tensor, lengths: torch.Tensor) -> None:
    plan = flashmla.plan_decode(q, kv_cache, table, lengths)
    out, lse = flashmla.dense_decode(q, kv_cache, table, lengths, plan=plan, out_dtype=torch.float32)
    assert_type(out, torch.Tensor)
    assert_type(lse, Any)
    assert_type(flashmla.dense_decode(q, kv_cache, table, lengths, return_lse=False), torch.Tensor)
    flashmla.dense_decode(q, kv_cache, table, lengths, out=out, lse=lse, stream=torch.cuda.current_stream())
    flashmla.merge_states([out, out], (lse, lse), out_dtype=torch.bfloat16)
    prepared = flashmla.prepare(flashmla.dense_decode, q, kv_cache, table, lengths)
    prepared(q=q, out=out)
    flash_mla.flash_mla_with_kvcache(q, kv_cache, table, lengths, 512, flash_mla.get_mla_metadata()[0])
    flash_mla.flash_mla_with_kvcache(
        q, kv_cache, None, None, 512, table, is_fp8_kvcache=True, indices=table, kv_format="V4"
    )
