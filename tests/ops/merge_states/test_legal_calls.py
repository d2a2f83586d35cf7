"""merge_states: any parts, stacked or listed, in any layout, give what the mathematics says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import c_abi
from attention import Result, same_bits
from ops.dense_decode import calls as decoding
from ops.merge_states import calls, strategies
from ops.merge_states.calls import MergeCase
from properties import share, shown_if_it_fails

PARTS = MergeCase(num_states=5, batch=2, s_q=3, h_q=20, given=("out", "lse"), seed=5)


@share(1 / 2)
@given(data=st.data())
def test_any_parts_give_what_the_oracle_says(backend, data):
    case = data.draw(strategies.merges(backend))
    with shown_if_it_fails(case):
        calls.check(case, backend)


@pytest.mark.parametrize("out_dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_pair_of_dtypes(backend, dtype, out_dtype):
    for stacked in (False, True):
        for num_states in (1, 2, 16):
            case = PARTS.but(dtype=dtype, out_dtype=out_dtype, stacked=stacked, num_states=num_states)
            calls.check(case, backend)


def test_stacked_and_listed_give_the_same_bits(backend):
    numbers = calls.make_parts(PARTS)
    listed, stacked = (
        calls.run(calls.Parts(PARTS.but(stacked=stacked), backend, numbers)) for stacked in (False, True)
    )
    same_bits(listed, stacked)


def test_more_parts_than_can_be_listed_on_a_gpu(backend):
    calls.check(PARTS.but(num_states=100, stacked=True), backend)
    if backend.name == "cpu":
        calls.check(PARTS.but(num_states=100), backend)


@pytest.mark.parametrize("infinity", [np.inf, -np.inf])
@pytest.mark.parametrize("junk", [np.nan, np.inf, 3.0])
def test_an_infinite_lse_of_either_sign_marks_an_empty_part(backend, infinity, junk):
    outs, lses = calls.make_parts(PARTS.but(empty=0.0, all_empty=0.0))
    full = calls.run(calls.Parts(PARTS.but(num_states=4), backend, (outs[:4], lses[:4])))
    outs[4], lses[4] = junk, infinity
    same_bits(full, calls.run(calls.Parts(PARTS, backend, (outs, lses))))


@pytest.mark.parametrize("others_empty", [False, True])
@pytest.mark.parametrize("stacked", [False, True])
def test_a_nan_lse_makes_its_row_nan_and_no_other(backend, stacked, others_empty):
    case = PARTS.but(stacked=stacked, dtype="float32", empty=0.0, all_empty=0.0)
    outs, lses = calls.make_parts(case)
    full = calls.run(calls.Parts(case, backend, (outs, lses)))
    if others_empty:
        lses[:, 1, 7, 2] = np.inf
    lses[3, 1, 7, 2] = np.nan  # request, head, token
    found = calls.run(calls.Parts(case, backend, (outs, lses)))
    assert np.isnan(found.out[1, 2, 7]).all()
    assert np.isnan(found.lse[1, 7, 2])
    found.out[1, 2, 7], found.lse[1, 7, 2] = full.out[1, 2, 7], full.lse[1, 7, 2]
    same_bits(found, full)


@pytest.mark.parametrize("empty_lse_minus", [False, True])
def test_rows_that_are_empty_everywhere(backend, empty_lse_minus):
    case = PARTS.but(all_empty=1.0, empty_lse_minus=empty_lse_minus)
    result = calls.run(calls.Parts(case, backend))
    assert not result.out.any()
    assert np.array_equal(result.lse, np.full(case.lse_shape, -np.inf if empty_lse_minus else np.inf, np.float32))


def test_one_part_is_passed_on(backend):
    case = PARTS.but(num_states=1, dtype="float32", empty=0.0, all_empty=0.0)
    parts = calls.Parts(case, backend)
    result = calls.run(parts)
    assert np.array_equal(result.out, parts.numbers[0][0])
    assert np.array_equal(result.lse, parts.numbers[1][0])


@pytest.mark.parametrize("top", [-3e38, -1e4, 1e4, 3e38])
def test_log_sum_exps_of_any_size(backend, top):
    """Weights depend on differences alone."""
    outs, lses = calls.make_parts(PARTS.but(dtype="float32", empty=0.0, all_empty=0.0))
    lses[:] = top
    result = calls.run(calls.Parts(PARTS.but(dtype="float32"), backend, (outs, lses)))
    np.testing.assert_allclose(result.out, outs.astype(np.float64).mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(result.lse, top + np.log(5), rtol=1e-6)


def test_the_order_of_parts_changes_rounding_only(backend):
    case = PARTS.but(dtype="float32")
    outs, lses = calls.make_parts(case)
    calls.check_result(case, (outs, lses), calls.run(calls.Parts(case, backend, (outs[::-1], lses[::-1]))))


@pytest.mark.parametrize(("batch", "s_q"), [(0, 1), (2, 0), (None, 0)])
def test_an_empty_call_succeeds_and_writes_nothing(backend, batch, s_q):
    for route in backend.routes:
        for stacked in (False, True):
            given = ("out", "lse") if backend.adapter(route).writable else ()
            case = PARTS.but(batch=batch, s_q=s_q, stacked=stacked, route=route, given=given)
            result = calls.run(calls.Parts(case, backend))
            assert result.out.shape == case.out_shape
            assert result.lse.shape == case.lse_shape


def test_options_of_a_gpu_do_nothing_on_the_cpu(backend, monkeypatch):
    if backend.name != "cpu":
        pytest.skip("they count there: tests/gpu")
    parts = calls.Parts(MergeCase(), backend)
    merged = calls.run(parts)
    monkeypatch.setenv("FLASHMLA_FORCE_KERNEL", "no such kernel")
    out = parts.output("out")
    call = parts.c_call(out=out)
    call.fields["stream"] = 0x1234567
    assert call.run() == 0, c_abi.last_error()
    same_bits(merged, Result(out.values(), None))


def test_a_cache_in_parts(backend):
    """Results over halves of a cache, merged, are those over the whole."""
    whole = decoding.Case(
        s_q=2, h_q=48, h_kv=2, num_blocks=12, max_blocks=6, lengths=(384, 384), given=("lse",), out_dtype="float32"
    )
    numbers = decoding.make_data(whole)
    parts = []
    for columns in (slice(0, 1), slice(1, 6)):
        length = 64 * len(range(6)[columns])
        facts = whole.but(lengths=(length, length), max_blocks=length // 64)
        half = decoding.make_data(whole)
        half.block_table = numbers.block_table[:, columns]
        half.cache_seqlens = half.stale_seqlens = np.array(facts.lengths, np.int32)
        parts.append(decoding.run(facts, backend, half))
    case = MergeCase("float32", batch=2, s_q=2, h_q=48, given=("lse",))
    stacked = (np.stack([part.out for part in parts]), np.stack([part.lse for part in parts]))
    decoding.check_result(whole, numbers, calls.run(calls.Parts(case, backend, stacked)))
