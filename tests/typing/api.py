"""Checked by mypy, never run: what the public functions take and return."""

from typing import Any, assert_type  # type: ignore[attr-defined] # assert_type: Python 3.11

import numpy as np
from numpy.typing import NDArray

import flashmla


def decode_keeps_the_type_of_q(
    q: NDArray[np.float16], kv_cache: NDArray[np.float16], table: NDArray[np.int32], lengths: NDArray[np.int32]
) -> None:
    plan = flashmla.plan_decode(q, kv_cache, table, lengths, causal=True, num_splits=2)
    assert_type(plan, flashmla.Plan)
    out, lse = flashmla.dense_decode(q, kv_cache, table, lengths, softmax_scale=0.1, causal=True, plan=plan)
    assert_type(out, NDArray[np.float16])
    assert_type(lse, Any)  # float32, whatever q is
    flashmla.dense_decode(q, kv_cache, table, lengths, out=out, lse=lse, workspace=lse, stream=0, num_threads=2)
    assert_type(flashmla.dense_decode_workspace_size(q, kv_cache, table, lengths, plan=plan), int)
    assert_type(flashmla.plan_decode_size(q, kv_cache, table, lengths), int)


def options_of_a_step(
    q: NDArray[np.float16], kv_cache: NDArray[np.float16], table: NDArray[np.int32], lengths: NDArray[np.int32]
) -> None:
    plan = flashmla.plan_decode(q, kv_cache, table, lengths, batch_invariant=True, cu_seqlens_q=lengths, max_seqlen_q=4)
    assert_type(plan, flashmla.Plan)
    out, _ = flashmla.dense_decode(q, kv_cache, table, lengths, cu_seqlens_q=lengths, max_seqlen_q=4, plan=plan)
    assert_type(out, NDArray[np.float16])
    flashmla.dense_decode(
        q,
        kv_cache,
        table,
        lengths,
        empty_lse=float("-inf"),
        cp_rank=0,
        cp_world=2,
        cp_interleave=64,
        global_seqlens=lengths,
    )
    flashmla.dense_decode(q, kv_cache, table, lengths, out_dtype="float32", lse_base2=True, batch_invariant=True)
    assert_type(flashmla.plan_decode_size(q, kv_cache, table, lengths, cu_seqlens_q=lengths, max_seqlen_q=4), int)
    flashmla.dense_decode(q, kv_cache, table, lengths, out_dtype=32)  # type: ignore[call-overload]


def a_prepared_call(
    q: NDArray[np.float16], kv_cache: NDArray[np.float16], table: NDArray[np.int32], lengths: NDArray[np.int32]
) -> None:
    prepared = flashmla.prepare(flashmla.dense_decode, q, kv_cache, table, lengths, causal=True)
    assert_type(prepared, flashmla.Prepared)
    assert_type(prepared(q=q), Any)  # what the operation returns
    flashmla.prepare(3)  # type: ignore[arg-type]
    prepared(q)  # type: ignore[call-arg]


def the_last_kernel_is_a_name() -> None:
    assert_type(flashmla.last_kernel(), str)


def errors_carry_the_status(error: flashmla.FlashMLAError) -> None:
    assert_type(error.status, int)
    assert_type(error.status_name, str)


def info_is_a_dictionary() -> None:
    assert_type(flashmla.info(), dict[str, Any])


def options_are_keywords_and_inputs_are_tensors(q: NDArray[np.float16]) -> None:
    flashmla.dense_decode(q, q, q, q, 0.1)  # type: ignore[call-overload]
    flashmla.dense_decode("q", q, q, q)  # type: ignore[call-overload]
    flashmla.dense_decode(q, q, q, q, plan=1)  # type: ignore[call-overload]
