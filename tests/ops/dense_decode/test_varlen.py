"""Variable-length queries: what cu_seqlens_q says, in order or not, against calls that have no need of it."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import compare
import flashmla
from ops.dense_decode import calls, strategies
from ops.dense_decode.case import INT32_MAX, INT32_MIN, Case, Layouts, make_data
from ops.dense_decode.oracle import Shard
from ops.dense_decode.relations import MIXED, close
from properties import share


def nearest(case: Case, numbers, result: calls.Result) -> tuple[np.ndarray, np.ndarray]:
    """The reference; elements of rows that several requests write are from the request that comes closest."""
    best_out, best_lse = calls.reference(case, numbers)
    for i in range(case.batch):
        rows = case.query_rows(i)
        # Only request i: all offsets before it at its begin, all behind at its end.
        offsets = [rows.start] * (i + 1) + [rows.stop] * (case.batch - i)
        alone = dataclasses.replace(numbers, cu_seqlens_q=np.array(offsets, np.int32))
        out, lse = calls.reference(case.but(cu_seqlens_q=tuple(offsets)), alone)
        for best, own, found in (
            (best_out[rows], out[rows], result.out[rows]),
            (best_lse[:, rows], lse[:, rows], result.lse[:, rows]),
        ):
            with np.errstate(invalid="ignore"):  # equal infinities
                closer = (own == found) | (np.abs(own - found) < np.abs(best - found))
            best[closer] = own[closer]
    return best_out, best_lse


@share(1 / 8)
@given(data=st.data())
def test_offsets_of_any_values_never_fault(backend, data):
    case = data.draw(strategies.cases(backend, varlen=True, wild=True, with_lse=True))
    numbers = make_data(case)
    result = calls.run(case, backend, numbers)
    out, lse = nearest(case, numbers, result)
    bound = calls.bound_of(case).widened(1.5)  # base-2 log-sum-exps among them
    compare.check_out(result.out.astype(np.float64), out, bound)
    compare.check_lse(result.lse.astype(np.float64), lse, bound)


@share(1 / 25)
@given(data=st.data())
def test_queries_of_one_length_are_a_fixed_length_call(backend, data):
    case = data.draw(strategies.cases(backend, varlen=False, with_lse=True, plan="none", num_splits=0))
    case = case.but(parted=False)
    numbers = make_data(case)
    offsets = np.arange(case.batch + 1, dtype=np.int32) * case.s_q
    layouts = Layouts(kv_cache=case.layouts.kv_cache)
    flat = case.but(cu_seqlens_q=tuple(map(int, offsets)), total_q=case.batch * case.s_q, layouts=layouts)
    queries = numbers.q.reshape(flat.shapes()["q"])
    moved = dataclasses.replace(numbers, q=queries, cu_seqlens_q=offsets, stale_cu_seqlens_q=offsets)
    fixed, varlen = calls.run(case, backend, numbers), calls.run(flat, backend, moved)
    for i in range(case.batch):
        close(case, fixed.request(case, i), varlen.request(flat, i))


@pytest.mark.parametrize("plan", ["none", "fresh", "stale"])
@pytest.mark.parametrize("batch_invariant", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_requests_with_and_without_queries(backend, plan, batch_invariant, causal):
    calls.check(MIXED.but(plan=plan, batch_invariant=batch_invariant, causal=causal), backend)


@pytest.mark.parametrize("num_splits", [1, 2, 9])
def test_forced_splits(backend, num_splits):
    calls.check(MIXED.but(plan="stale", num_splits=num_splits), backend)


def test_more_queries_than_max_seqlen_q_are_not_written(backend):
    case = MIXED.but(s_q=2)
    assert list(case.owners()) == [0, 1, 1, 0, 1, 1, 1, 0]
    calls.check(case, backend)


def test_many_requests_of_which_most_have_no_query(backend):
    lengths = tuple(64 + 7 * i for i in range(40))
    counts = [int(i % 13 == 5) * (1 + i % 3) for i in range(40)]
    offsets = tuple(int(n) for n in np.cumsum([0, *counts]))
    case = MIXED.but(lengths=lengths, cu_seqlens_q=offsets, total_q=offsets[-1], num_blocks=40, h_q=130)
    calls.check(case, backend)
    calls.check(case.but(batch_invariant=True, h_q=16, h_kv=1, shard=Shard(1, 2, 16), global_seqlens=lengths), backend)


@pytest.mark.parametrize(
    "offsets", [(0, 0, 0, 0, 0), (INT32_MIN,) * 5, (INT32_MAX,) * 5, (5, 4, 3, 2, 1), (INT32_MAX, 0, 8, INT32_MIN, 8)]
)
def test_edges_of_offsets(backend, offsets):
    case = MIXED.but(cu_seqlens_q=offsets)
    numbers = make_data(case)
    result = calls.run(case, backend, numbers)
    if case.owners().max() <= 1:
        calls.check_result(case, numbers, result)


@pytest.mark.parametrize(("total_q", "batch"), [(0, 2), (0, 0), (3, 0)])
@pytest.mark.parametrize("plan", ["none", "fresh"])
def test_an_empty_call_succeeds_and_writes_nothing(backend, total_q, batch, plan):
    for route in backend.routes:
        given = ("out", "lse", "workspace", "plan_buffer") if backend.adapter(route).writable else ()
        case = Case(h_q=4, lengths=(5,) * batch, cu_seqlens_q=(0,) * (batch + 1), total_q=total_q, plan=plan)
        result = calls.run(case.but(route=route, given=given), backend)
        assert result.out.shape == (total_q, 4, 512)
        assert result.lse.shape == (4, total_q)


@pytest.mark.parametrize("batch_invariant", [False, True])
def test_no_limit_on_queries_costs_nothing(batch_invariant):
    """Of 4,096 requests with a token each most tiles that there might be are dead."""
    tokens, h_q = 4096, 4
    q, out = np.zeros((tokens, h_q, 576), np.float32), np.zeros((tokens, h_q, 512), np.float32)
    kv_cache, lengths = np.zeros((1, 64, 1, 576), np.float32), np.full(tokens, 5, np.int32)
    table, offsets = np.zeros((tokens, 1), np.int32), np.arange(tokens + 1, dtype=np.int32)
    options = {"cu_seqlens_q": offsets, "batch_invariant": batch_invariant, "out": out}

    def seconds(most: int) -> float:
        begin = time.perf_counter()
        flashmla.dense_decode(q, kv_cache, table, lengths, max_seqlen_q=most, **options)
        return time.perf_counter() - begin

    bounded, unbounded = (min(seconds(most) for _ in range(5)) for most in (1, INT32_MAX))
    assert unbounded < 4 * bounded
