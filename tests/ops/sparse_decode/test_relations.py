"""What must hold between calls: relations that need no tolerance, or that the oracle alone would not pin down."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flashmla
from attention import Result, same_bits
from buffers import COMPACT, DTYPES
from ops.dense_decode import calls as dense_calls
from ops.dense_decode.case import Case as DenseCase
from ops.merge_states import oracle as merge_oracle
from ops.sparse_decode import calls, strategies
from ops.sparse_decode.case import Cache, SparseCase
from ops.sparse_decode.data import Selected, make_data
from ops.sparse_decode.relations import EXTRA, MIXED, STEP, TWOFOLD, close, counted, gathered, selected
from properties import share

FEW = share(1 / 25)
FIXED = {"varlen": False, "with_lse": True}
RIGHT_PLANS = st.sampled_from(("none", "fresh"))  # stale ones have other pieces


@FEW
@given(data=st.data())
def test_pages_may_lie_anywhere(backend, data):
    case = data.draw(strategies.cases(backend, with_lse=True))
    numbers = make_data(case)
    moved = {}
    for prefix, cache in case.caches.items():
        one = numbers.caches[prefix]
        places = np.random.default_rng(case.seed + 1).permutation(cache.num_blocks)
        kv_cache, indices = np.empty_like(one.kv_cache), one.indices.copy()
        kv_cache[places] = one.kv_cache
        inside = (indices >= 0) & (indices < cache.slots)
        pages, rows = np.divmod(indices[inside], cache.page_size)
        indices[inside] = places[pages] * cache.page_size + rows
        moved[prefix] = replace(one, kv_cache=kv_cache, indices=indices)
    same_bits(calls.run(case, backend, numbers), calls.run(case, backend, replace(numbers, caches=moved)))


@FEW
@given(data=st.data())
def test_requests_do_not_see_each_other(backend, data):
    case = data.draw(strategies.cases(backend, **FIXED, plan=data.draw(RIGHT_PLANS)))
    numbers = make_data(case)
    together = calls.run(case, backend, numbers)
    i = data.draw(st.integers(0, case.batch - 1))
    lone, lone_numbers = gathered(case, numbers, [i])
    alone = calls.run(lone, backend, lone_numbers)
    close(case, together.request(case, i), alone.request(lone, 0))
    if case.batch_invariant:
        same_bits(together.request(case, i), alone.request(lone, 0))


@FEW
@given(data=st.data())
def test_number_of_threads_does_not_show(backend, data):
    case = data.draw(strategies.cases(backend, num_threads=1, with_lse=True))
    numbers = make_data(case)
    alone = calls.run(case, backend, numbers)
    for threads in (2, 3, 64):
        same_bits(alone, calls.run(case.but(num_threads=threads), backend, numbers))


@FEW
@given(data=st.data())
def test_the_order_of_indices_changes_rounding_only(backend, data):
    case = data.draw(strategies.cases(backend, **FIXED))
    numbers = make_data(case)
    indices = counted(case, numbers)
    one = selected(case, numbers, indices)
    other = selected(case, numbers, np.random.default_rng(case.seed).permuted(indices, axis=-1))
    close(case, calls.run(one[0], backend, one[1]), calls.run(other[0], backend, other[1]))


@FEW
@given(data=st.data())
def test_what_does_not_count_may_be_left_out(backend, data):
    """-1 behind the indices, in the middle of them, and a shorter topk with or without topk_length."""
    case = data.draw(strategies.cases(backend, **FIXED))
    numbers = make_data(case)
    wanted = calls.run(case, backend, numbers)
    indices = counted(case, numbers)
    none = np.full((*indices.shape[:2], data.draw(st.sampled_from((1, 64, 65)))), -1, indices.dtype)
    half = indices.shape[-1] // 2
    parts = [indices[..., :half], none, indices[..., half:], none]
    for changed in (indices, np.concatenate(parts, axis=-1)):
        facts, other = selected(case, numbers, changed)
        close(case, wanted, calls.run(facts, backend, other))


@FEW
@given(data=st.data())
def test_every_token_named_twice_weighs_twice(backend, data):
    case = data.draw(strategies.cases(backend, **FIXED, twofold=False, sink=None))
    numbers = make_data(case)
    indices = counted(case, numbers)
    once = calls.run(*reordered(selected(case, numbers, indices), backend))
    twice = calls.run(*reordered(selected(case, numbers, np.concatenate([indices, indices], -1)), backend))
    more = 1.0 if case.lse_base2 else np.log(2)
    close(case, twice, Result(once.out, once.lse.astype(np.float64) + more))


def reordered(problem, backend):
    case, numbers = problem
    return case, backend, numbers


def test_all_tokens_in_order_are_dense_attention(backend):
    """Whatever the number of query tokens is: there is no causal mask."""
    dense = DenseCase(s_q=2, h_q=48, num_blocks=9, max_blocks=4, lengths=(200, 256), given=("lse",), seed=3)
    numbers = dense_calls.make_data(dense)
    slots = numbers.block_table[:, :, None].astype(np.int64) * 64 + np.arange(64)
    slots = np.repeat(slots.reshape(2, 1, 256), 2, axis=1)
    for kv_format in ("bf16", "v32"):
        case = SparseCase(
            main=Cache(kv_format, num_blocks=9, topk=256, lengths=dense.lengths),
            batch=2,
            s_q=2,
            h_q=48,
            given=("lse",),
            index_dtype="int64",
        )
        data = make_data(case)
        kv_cache = numbers.kv_cache
        if kv_format == "v32":
            pages = flashmla.quantize_kv(
                np.nan_to_num(kv_cache.reshape(-1, 576).astype(np.float32)), kv_format="v32", page_size=64
            )
            kv_cache = pages
            rows = flashmla.dequantize_kv(pages, kv_format="v32", out_dtype="float32").astype(DTYPES["bfloat16"])
            numbers = replace(numbers, kv_cache=rows.reshape(9, 64, 1, 576))
        data = replace(data, q=numbers.q, caches={"": Selected(kv_cache, slots, np.array(dense.lengths, np.int32))})
        close(case, calls.run(case, backend, data), dense_calls.run(dense, backend, numbers))


def merged(case: SparseCase, parts: list[Result]) -> Result:
    out, lse = merge_oracle.merge_states(
        [part.out for part in parts],
        [part.lse for part in parts],
        lse_base2=case.lse_base2,
        empty_lse=-np.inf if case.empty_lse_minus else np.inf,
    )
    return Result(out, lse)


@FEW
@given(data=st.data())
def test_disjoint_selections_merge_to_the_whole(backend, data):
    """As ranks that hold shards of a cache would: each has the tokens of the others as -1, perhaps all of them."""
    case = data.draw(strategies.cases(backend, **FIXED, twofold=False, sink=None))
    case = case.but(out_dtype="float32", given=case.given if case.route == "c" else ())
    numbers = make_data(case)
    indices = counted(case, numbers)
    world = data.draw(st.integers(1, 4))
    owner = np.random.default_rng(case.seed).integers(0, world, indices.shape)
    parts = []
    for rank in range(world):
        facts, shard = selected(case, numbers, np.where(owner == rank, indices, -1))
        parts.append(calls.run(facts, backend, shard))
    joined = merged(case, parts)
    calls.check_result(case, numbers, joined)
    adapter = backend.adapter("c")
    outs, lses = ([adapter.place(getattr(part, name)) for part in parts] for name in ("out", "lse"))
    empty = -np.inf if case.empty_lse_minus else np.inf
    found = flashmla.merge_states(outs, lses, lse_base2=case.lse_base2, empty_lse=empty)
    close(case, Result(*(adapter.to_numpy(one) for one in found)), joined)


@pytest.mark.parametrize("case", [TWOFOLD, MIXED], ids=["fixed", "varlen"])
def test_two_selections_are_those_of_each_cache_merged(backend, case):
    case = case.but(sink=None, out_dtype="float32")
    numbers = make_data(case)
    whole = calls.run(case, backend, numbers)
    parts = []
    for prefix, cache in case.caches.items():
        alone = replace(numbers, caches={"": numbers.caches[prefix]})
        parts.append(calls.run(case.but(main=cache, extra=None), backend, alone))
    joined = merged(case, parts)
    free = calls.free_rows(case)
    close(case, whole, calls.without_free_rows(case, joined) if len(free) else joined)


@FEW
@given(data=st.data())
def test_the_sink_scales_rows_and_leaves_the_lse(backend, data):
    case = data.draw(strategies.cases(backend, with_lse=True, out_dtype="float32", sink="some"))
    case = case.but(given=tuple(name for name in case.given if name != "out" or case.route == "c"))
    numbers = make_data(case)
    sunk = calls.run(case, backend, numbers)
    plain = calls.run(case.but(sink=None), backend, numbers)
    assert sunk.lse.tobytes() == plain.lse.tobytes()
    lse = np.moveaxis(plain.lse.astype(np.float64), -1, -2) * (np.log(2) if case.lse_base2 else 1)
    finite = np.isfinite(lse)
    part = np.where(finite, 1 / (1 + np.exp(numbers.attn_sink - np.where(finite, lse, 0))), 0)
    wanted = plain.out * part[..., None]
    rounded = 2.0**-22 * np.abs(wanted).max(-1, initial=0, keepdims=True)  # of the terms that an element is summed of
    assert (np.abs(sunk.out - wanted) <= 1e-4 * np.abs(wanted) + rounded + 2.0**-126).all()


def test_sinks_without_effect_and_of_full_effect(backend):
    for case in (STEP, TWOFOLD, MIXED, STEP.but(topk=3, lengths=None), STEP.but(lengths=(0, 0))):
        numbers = make_data(case)
        plain = calls.run(case.but(sink=None), backend, numbers)
        sunk = calls.run(case, backend, replace(numbers, attn_sink=np.full(48, -np.inf, np.float32)))
        same_bits(plain, sunk)
        sunk = calls.run(case, backend, replace(numbers, attn_sink=np.full(48, np.inf, np.float32)))
        assert not sunk.out.any()
        assert sunk.lse.tobytes() == plain.lse.tobytes()
        sunk = calls.run(case, backend, replace(numbers, attn_sink=np.full(48, np.nan, np.float32)))
        assert sunk.lse.tobytes() == plain.lse.tobytes()
        some = np.isfinite(np.moveaxis(plain.lse, -1, -2))
        some[calls.free_rows(case)] = False
        assert np.isnan(sunk.out[some].astype(np.float32)).all()
        assert not sunk.out[~some].any()


@FEW
@given(data=st.data())
def test_base_2_and_empty_values_change_the_lse_alone(backend, data):
    case = data.draw(strategies.cases(backend, lse_base2=False, empty_lse_minus=False, with_lse=True))
    numbers = make_data(case)
    natural, base2, minus = (
        calls.run(case.but(**flags), backend, numbers) for flags in ({}, {"lse_base2": True}, {"empty_lse_minus": True})
    )
    assert natural.out.tobytes() == base2.out.tobytes() == minus.out.tobytes()
    np.testing.assert_allclose(base2.lse, natural.lse / np.log(2), rtol=1e-6, atol=1e-6)
    assert np.array_equal(np.where(np.isposinf(natural.lse), -np.inf, natural.lse), minus.lse)


@FEW
@given(data=st.data())
def test_float32_out_is_what_the_dtype_of_q_rounds(backend, data):
    case = data.draw(strategies.cases(backend, out_dtype=None, with_lse=True))
    numbers = make_data(case)
    narrow, wide = (calls.run(case.but(out_dtype=dtype), backend, numbers) for dtype in (None, "float32"))
    rounded = wide.out.astype(DTYPES[case.dtype]).astype(np.float32)
    np.testing.assert_array_equal(narrow.out.astype(np.float32), rounded)  # NaN equals NaN
    assert narrow.lse.tobytes() == wide.lse.tobytes()


@FEW
@given(data=st.data())
def test_a_query_token_has_its_bits_beside_any_others(backend, data):
    """With batch_invariant: as a request of its own, packed or not, in any batch."""
    case = data.draw(strategies.cases(backend, **FIXED, batch_invariant=True, route="c", plan=data.draw(RIGHT_PLANS)))
    compact = dict.fromkeys(("q", "q_rope", "out", "lse"), COMPACT)
    case = case.but(layouts=replace(case.layouts, **compact))
    numbers = make_data(case)
    together = calls.run(case, backend, numbers)
    i, s = data.draw(st.integers(0, case.batch - 1)), data.draw(st.integers(0, case.s_q - 1))
    lone, alone = gathered(case, numbers, [i])
    caches = {name: replace(one, indices=one.indices[:, s : s + 1]) for name, one in alone.caches.items()}
    alone = replace(alone, q=alone.q[:, s : s + 1], caches=caches)
    lone = lone.but(s_q=1)
    found = calls.run(lone, backend, alone)
    wanted = Result(together.out[i : i + 1, s : s + 1], together.lse[i : i + 1, :, s : s + 1])
    same_bits(found, wanted)
    packed = {name: replace(one, indices=one.indices[0]) for name, one in caches.items()}
    flat = {name: one.but(indices_layout=COMPACT) for name, one in (("main", lone.main), ("extra", lone.extra)) if one}
    varlen = lone.but(cu_seqlens_q=(0, 1), total_q=1, **flat)
    offsets = np.array([0, 1], np.int32)
    found = calls.run(varlen, backend, replace(alone, q=alone.q[0], caches=packed, cu_seqlens_q=offsets))
    same_bits(Result(found.out[None], found.lse[None]), wanted)


def test_a_repeated_call_has_the_same_bits(backend):
    for case in (STEP, TWOFOLD, MIXED, TWOFOLD.but(main=EXTRA.but(topk=2000, lengths=None))):
        numbers = make_data(case)
        same_bits(calls.run(case, backend, numbers), calls.run(case, backend, numbers))
