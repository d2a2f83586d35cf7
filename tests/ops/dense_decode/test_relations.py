"""What must hold between calls: relations that need no tolerance, or that the oracle alone would not pin down."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import compare
import flashmla
from at_once import at_once
from attention import same_bits
from buffers import DTYPES
from ops.dense_decode import calls, strategies
from ops.dense_decode.calls import Tensors, decode, make_plan
from ops.dense_decode.case import INT32_MAX, INT32_MIN, Case, gathered, make_data
from ops.dense_decode.relations import ACROSS_THREADS, STEP, check_threads, close
from properties import share

FEW = 1 / 25  # of the main property's examples


@share(FEW)
@given(data=st.data())
def test_pages_may_lie_anywhere(backend, data):
    case = data.draw(strategies.cases(backend, with_lse=True))
    numbers = make_data(case)
    places = np.random.default_rng(case.seed + 1).permutation(case.num_blocks).astype(np.int32)
    moved = dataclasses.replace(
        numbers, kv_cache=np.empty_like(numbers.kv_cache), block_table=numbers.block_table.copy()
    )
    moved.kv_cache[places] = numbers.kv_cache
    inside = (numbers.block_table >= 0) & (numbers.block_table < case.num_blocks)
    moved.block_table[inside] = places[numbers.block_table[inside]]
    same_bits(calls.run(case, backend, numbers), calls.run(case, backend, moved))


@share(FEW)
@given(data=st.data())
def test_requests_do_not_see_each_other(backend, data):
    case = data.draw(strategies.cases(backend, num_splits=0, plan="none", with_lse=True))
    numbers = make_data(case)
    together = calls.run(case, backend, numbers)
    i = data.draw(st.integers(0, case.batch - 1))
    lone = gathered(case, numbers, [i])
    close(case, together.request(case, i), calls.run(lone[0], backend, lone[1]).request(lone[0], 0))


@share(FEW)
@given(data=st.data())
def test_splits_change_rounding_only(backend, data):
    case = data.draw(strategies.cases(backend, num_splits=strategies.MAX_SPLITS, with_lse=True))
    numbers = make_data(case)
    whole = calls.run(case.but(num_splits=1), backend, numbers)
    parts = calls.run(case.but(num_splits=data.draw(st.integers(2, strategies.MAX_SPLITS))), backend, numbers)
    close(case, parts, whole)


def test_more_splits_than_tokens(backend):
    calls.check(Case(lengths=(70, 0, 1), num_blocks=4, max_blocks=3, plan="fresh", num_splits=1024), backend)


@share(FEW)
@given(data=st.data())
def test_a_plan_gives_the_bits_of_the_calls_own_schedule(backend, data):
    case = data.draw(strategies.cases(backend, num_splits=0, plan="none", with_lse=True))
    numbers = make_data(case)
    same_bits(calls.run(case, backend, numbers), calls.run(case.but(plan="fresh"), backend, numbers))


@share(FEW)
@given(data=st.data())
def test_rows_are_right_while_lengths_grow_under_one_plan(backend, data):
    case = data.draw(strategies.cases(backend, plan="fresh", bad_pages=False, with_lse=True))
    longest = case.but(lengths=(case.capacity,) * case.batch)
    numbers = make_data(longest)
    plan = None
    for grown in range(4):
        numbers.cache_seqlens = np.array(case.lengths, np.int64).clip(0, case.capacity - 3).astype(np.int32) + grown
        tensors = Tensors(longest, backend, numbers)
        plan = plan or make_plan(tensors)
        calls.check_result(longest, numbers, decode(tensors, plan))


@share(FEW)
@given(data=st.data())
def test_number_of_threads_does_not_show(backend, data):
    case = data.draw(strategies.cases(backend, num_threads=1, with_lse=True))
    numbers = make_data(case)
    alone = calls.run(case, backend, numbers)
    for threads in (2, 3, 64):
        same_bits(alone, calls.run(case.but(num_threads=threads), backend, numbers))


@pytest.mark.parametrize("name", ACROSS_THREADS)
def test_one_thread_or_several_have_the_pieces_of_a_tile(backend, name):
    if backend.name != "cpu":
        pytest.skip("threads are the CPU's")
    check_threads(ACROSS_THREADS[name], backend)


@pytest.mark.parametrize("plan", [{"num_splits": n} for n in (0, 1, 2, 3)] + [{"batch_invariant": True}], ids=str)
def test_a_row_whose_logits_are_all_minus_infinity_is_empty(backend, plan):
    """However its tile is cut. On a GPU infinities are outside the promise."""
    if backend.name != "cpu":
        pytest.skip("infinities in a cache are outside the promise on a GPU")
    case = STEP.but(
        lengths=(640, 64), num_blocks=12, max_blocks=10, causal=False, plan="fresh", bad_pages=False, **plan
    )
    numbers = make_data(case)
    numbers.q[..., 512:] = np.abs(numbers.q[..., 512:]) + DTYPES[case.dtype].type(1)
    numbers.kv_cache[..., 512:] = -np.inf
    found = calls.run(case, backend, numbers)
    assert not found.out.astype(np.float32).any()
    assert (found.lse == np.inf).all()


@share(FEW)
@given(data=st.data())
def test_values_scale_with_their_latents(backend, data):
    """Doubling what q does not look at doubles out and leaves lse: powers of two are exact in every dtype."""
    case = data.draw(
        strategies.cases(
            backend, dtype="bfloat16", d_qk=576, kv_format="bf16", bad_pages=False, sink=None, with_lse=True
        )
    )
    numbers = make_data(case)
    numbers.q[..., :512] = 0  # the logits come from the RoPE part alone
    doubled = dataclasses.replace(numbers, kv_cache=numbers.kv_cache.copy())
    doubled.kv_cache[..., :512] *= DTYPES["bfloat16"].type(2)
    once, twice = calls.run(case, backend, numbers), calls.run(case, backend, doubled)
    assert np.array_equal(twice.out, once.out * once.out.dtype.type(2))
    assert np.array_equal(twice.lse, once.lse)


@pytest.mark.parametrize("softmax_scale", [1e-30, 1.0, 1e4])
def test_logits_of_any_size(backend, softmax_scale):
    """One-hot queries against whole numbers: every logit is exact, so large ones are no excuse."""
    case = STEP.but(softmax_scale=softmax_scale, num_splits=3, plan="fresh", causal=False)
    numbers = make_data(case)
    numbers.q[...] = 0
    numbers.q[..., 575] = 1
    live = ~np.isnan(numbers.kv_cache[..., 575].astype(np.float32))
    order = np.random.default_rng(1).permutation(live.size).reshape(live.shape) % 200 - 150
    numbers.kv_cache[..., 575] = np.where(live, order.astype(np.float32), np.float32(np.nan))
    result = calls.run(case, backend, numbers)
    out, lse = calls.reference(case, numbers)
    bound = compare.tolerance("dense_decode", case.dtype)  # not widened: the logits carry no rounding error
    compare.check_lse(result.lse.astype(np.float64), lse, bound)
    compare.check_out(result.out.astype(np.float64), out, bound)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("num_splits", [0, 5])
def test_a_hundred_repeats_are_equal_bit_for_bit(backend, dtype, num_splits):
    if dtype not in backend.dtypes:
        pytest.skip(f"no {dtype} on this backend")
    case = STEP.but(dtype=dtype, plan="fresh", num_splits=num_splits)
    numbers = make_data(case)
    tensors = Tensors(case, backend, numbers)
    plan = make_plan(tensors)
    first = decode(tensors, plan)
    calls.check_result(case, numbers, first)
    for _ in range(99):
        same_bits(first, decode(tensors, plan))


def test_threads_of_the_application_do_not_disturb_each_other(backend):
    cases = [STEP.but(seed=seed, num_threads=2) for seed in range(4)]

    def work(case):
        tensors = Tensors(case, backend)
        return [decode(tensors) for _ in range(10)]

    for case, results in zip(cases, at_once(work, cases), strict=True):
        calls.check_result(case, make_data(case), results[0])
        for result in results:
            same_bits(results[0], result)


@pytest.mark.parametrize(("batch", "s_q"), [(0, 1), (2, 0), (0, 0)])
@pytest.mark.parametrize("plan", ["none", "fresh"])
def test_an_empty_call_succeeds_and_writes_nothing(backend, batch, s_q, plan):
    for route in backend.routes:
        given = ("out", "lse", "workspace", "plan_buffer") if backend.adapter(route).writable else ()
        case = Case(s_q=s_q, h_q=4, lengths=(5,) * batch, plan=plan, route=route, given=given)
        result = calls.run(case, backend)
        assert result.out.size == 0
        assert result.lse.size == 0


@pytest.mark.parametrize("length", [INT32_MIN, -1, 0, 6 * 64, 6 * 64 + 1, INT32_MAX])
def test_a_length_is_clamped_before_the_causal_bound_is_formed(backend, length):
    case = STEP.but(lengths=(length, 100))
    calls.check(case, backend)
    clamped = case.but(lengths=(min(max(length, 0), case.capacity), 100))
    same_bits(calls.run(case, backend), calls.run(clamped, backend))


@pytest.mark.parametrize("page", [-1, 12, 13, INT32_MIN, INT32_MAX])
def test_a_page_outside_the_cache_is_a_page_of_zeros_that_takes_part(backend, page):
    numbers = make_data(STEP)
    numbers.block_table[0, 1] = page
    calls.check_result(STEP, numbers, calls.run(STEP, backend, numbers))
    nothing = make_data(STEP)
    nothing.block_table[:] = page
    result = calls.run(STEP, backend, nothing)
    assert not result.out.any()
    attended = np.array(STEP.lengths)[:, None] - np.array([1, 0])
    assert result.lse == pytest.approx(np.broadcast_to(np.log(attended)[:, None, :], result.lse.shape), rel=1e-6)


def test_rows_before_the_first_token_are_empty(backend):
    """Causal with fewer tokens than query tokens: the first rows attend to nothing."""
    case = STEP.but(s_q=5, lengths=(2, 0))
    result = calls.run(case, backend)
    calls.check_result(case, make_data(case), result)
    assert not result.out[0, :3].any()
    assert np.isposinf(result.lse[0, :, :3]).all()
    assert np.isfinite(result.lse[0, :, 3:]).all()
    assert np.isposinf(result.lse[1]).all()


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("s_q", "h_q", "h_kv"), [(2, 48, 2), (3, 16, 1), (4, 1, 1), (2, 128, 1), (5, 20, 1), (9, 130, 2)]
)
def test_a_token_that_only_the_last_row_attends(backend, s_q, h_q, h_kv, poison):
    case = STEP.but(s_q=s_q, h_q=h_q, h_kv=h_kv, lengths=(300, 64, s_q))
    numbers = make_data(case)
    clean = calls.run(case, backend, numbers)
    spoiled = dataclasses.replace(numbers, kv_cache=numbers.kv_cache.copy())
    for i, length in enumerate(case.lengths):
        page = numbers.block_table[i, (length - 1) // case.page_size]
        spoiled.kv_cache[page, (length - 1) % case.page_size] = poison
    result = calls.run(case, backend, spoiled)
    before = calls.Result(result.out[:, :-1], result.lse[:, :, :-1])
    same_bits(before, calls.Result(clean.out[:, :-1], clean.lse[:, :, :-1]))
    if np.isnan(poison):
        assert np.isnan(result.out[:, -1].astype(np.float64)).all()


def test_a_plan_whose_host_buffer_was_overwritten(backend):
    if backend.name != "cpu":
        pytest.skip("kernels clamp what they read: tests/gpu/garbage_plans.py")
    draw = np.random.default_rng(0)
    base = STEP.but(route="numpy", dtype="float32", plan="fresh", given=("plan_buffer", "out"))
    varlen = base.but(s_q=3, cu_seqlens_q=(0, 3, 4), total_q=4)
    invariant = base.but(lengths=(1900, 71), num_blocks=40, max_blocks=30, batch_invariant=True)
    for case in (*(base.but(num_splits=n) for n in (0, 1, 3)), varlen, invariant):
        tensors = Tensors(case, backend)
        plan = make_plan(tensors)
        words = plan.buffer.tensor.view(np.int32)
        kept = words.copy()
        for low, high in ((INT32_MIN, INT32_MAX), (-3, 20)):
            words[:] = draw.integers(low, high, words.size)
            plan.buffer.remember()
            with pytest.raises(flashmla.InvalidArgumentError, match="no longer holds its schedule") as refusal:
                decode(tensors, plan)
            assert refusal.value.status_name == "FLASHMLA_ERROR_PLAN_MISMATCH"
        words[:] = kept
        plan.buffer.remember()
        decode(tensors, plan)
