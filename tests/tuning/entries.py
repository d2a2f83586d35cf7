"""Entries of tuning files for the cases of the operations."""

from __future__ import annotations

from flashmla._formats import kv_format_number


def dense(case, **choice) -> dict:
    """For a case of dense_decode."""
    facts = {
        "operation": "dense_decode", "dtype": case.dtype, "kv_format": kv_format_number(case.kv_format),
        "d_qk": case.d_qk, "h_q": case.h_q, "h_kv": case.h_kv, "s_q": case.most_queries,
        "varlen": int(case.cu_seqlens_q is not None), "page_size": case.page_size, "window": case.window,
        "batch_from": case.batch, "batch_to": case.batch, "capacity_from": case.capacity, "capacity_to": case.capacity,
    }  # fmt: skip
    return facts | choice


def sparse(case, **choice) -> dict:
    """For a case of sparse_decode."""
    topk = case.main.topk
    facts = {
        "operation": "sparse_decode", "dtype": case.dtype, "kv_format": kv_format_number(case.main.kv_format),
        "d_qk": case.d_qk, "h_q": case.h_q, "h_kv": 1, "s_q": case.most_queries,
        "varlen": int(case.cu_seqlens_q is not None), "extra_topk": case.extra.topk if case.extra else 0,
        "batch_from": case.batch, "batch_to": case.batch, "capacity_from": topk, "capacity_to": topk,
    }  # fmt: skip
    return facts | choice
