"""Options that change the form of a call or of its result, and not what is computed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import c_abi
from attention import same_bits
from buffers import DTYPES
from ops.dense_decode import calls, oracle, strategies
from ops.dense_decode.case import Case, Data, Layouts, make_data
from ops.dense_decode.relations import STEP, check_digits, close
from properties import share

FEW = share(1 / 25)


def repaged(case: Case, data: Data, page_size: int) -> tuple[Case, Data]:
    """The same tokens in pages of another size, which lie in another order. Pages outside the cache become zeros."""
    lengths = tuple(min(max(length, 0), case.capacity) for length in case.lengths)
    columns = -(-case.capacity // page_size)
    count = case.batch * columns
    cache = np.full((count, page_size, *data.kv_cache.shape[2:]), np.nan, data.kv_cache.dtype)
    table = np.random.default_rng(case.seed + 2).permutation(count).astype(np.int32).reshape(case.batch, columns)
    for i in range(case.batch):
        used = -(-case.attended(i) // case.page_size)
        pages = data.block_table[i, :used]
        inside = (pages >= 0) & (pages < case.num_blocks)
        taken = np.where(inside[:, None, None, None], data.kv_cache[np.where(inside, pages, 0)], 0)
        rows = np.full((columns * page_size, *cache.shape[2:]), np.nan, cache.dtype)
        rows[: case.attended(i)] = taken.reshape(-1, *cache.shape[2:])[: case.attended(i)]
        cache[table[i]] = rows.reshape(columns, *cache.shape[1:])
    facts = case.but(lengths=lengths, page_size=page_size, num_blocks=count, max_blocks=columns, layouts=Layouts())
    return facts, dataclasses.replace(
        data, kv_cache=cache, block_table=table, cache_seqlens=np.array(lengths, np.int32)
    )


@FEW
@given(data=st.data())
def test_the_page_size_does_not_change_the_result(backend, data):
    case = data.draw(strategies.cases(backend, num_splits=0, plan="none", kv_format="bf16", with_lse=True))
    numbers = make_data(case)
    facts, moved = repaged(case, numbers, data.draw(st.sampled_from(backend.page_sizes)))
    calls.check_result(facts, moved, (other := calls.run(facts, backend, moved)))
    close(case, calls.run(case, backend, numbers), other)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_every_page_size(backend, dtype):
    if dtype not in backend.dtypes:
        pytest.skip(f"no {dtype} on this backend")
    case = STEP.but(dtype=dtype)
    numbers = make_data(case)
    for page_size in backend.page_sizes:
        facts, moved = repaged(case, numbers, page_size)
        calls.check_result(facts, moved, calls.run(facts, backend, moved))


@pytest.mark.parametrize("d_qk", oracle.D_V)
@pytest.mark.parametrize("h_q", [1, 17, 64, 128])
def test_every_geometry(backend, d_qk, h_q):
    if d_qk not in strategies.GEOMETRIES[backend.name]:
        pytest.skip("not on this backend")
    for dtype in backend.dtypes:
        for page_size in (64, 16, 1, 128, 80):
            case = STEP.but(dtype=dtype, d_qk=d_qk, h_q=h_q, h_kv=1, page_size=page_size, num_blocks=30)
            calls.check(case.but(max_blocks=12, lengths=(12 * page_size, page_size + 1)), backend)


@FEW
@given(data=st.data())
def test_base_2_is_the_natural_logarithm_in_other_units(backend, data):
    case = data.draw(strategies.cases(backend, lse_base2=False, with_lse=True))
    numbers = make_data(case)
    natural, base2 = (calls.run(case.but(lse_base2=flag), backend, numbers) for flag in (False, True))
    assert natural.out.tobytes() == base2.out.tobytes()
    np.testing.assert_allclose(base2.lse, natural.lse / np.log(2), rtol=1e-6, atol=1e-6)


@FEW
@given(data=st.data())
def test_the_lse_of_empty_rows_is_as_asked_for(backend, data):
    case = data.draw(strategies.cases(backend, empty_lse_minus=False, with_lse=True))
    numbers = make_data(case)
    plus, minus = (calls.run(case.but(empty_lse_minus=flag), backend, numbers) for flag in (False, True))
    assert plus.out.tobytes() == minus.out.tobytes()
    assert np.array_equal(np.where(np.isposinf(plus.lse), -np.inf, plus.lse), minus.lse)


@FEW
@given(data=st.data())
def test_float32_out_is_what_the_dtype_of_q_rounds(backend, data):
    case = data.draw(strategies.cases(backend, out_dtype=None, with_lse=True))
    numbers = make_data(case)
    narrow, wide = (calls.run(case.but(out_dtype=dtype), backend, numbers) for dtype in (None, "float32"))
    rounded = wide.out.astype(DTYPES[case.dtype]).astype(np.float32)
    np.testing.assert_array_equal(narrow.out.astype(np.float32), rounded)  # NaN equals NaN
    assert narrow.lse.tobytes() == wide.lse.tobytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_float32_out_has_more_digits_than_the_dtype_of_q(backend, dtype):
    check_digits(STEP.but(dtype=dtype, out_dtype="float32"), backend)


def run_changed(backend, change) -> calls.Result:
    """STEP by the C ABI, after `change` of the call."""
    tensors = calls.Tensors(STEP, backend)
    out, lse = tensors.place("out"), tensors.place("lse")
    call = tensors.c_call("dense_decode", out=out, lse=lse)
    change(call)
    status, size = call.size()
    assert status == 0, c_abi.last_error()
    workspace = tensors.scratch(size)
    call.fields |= {"workspace": tensors.adapter.address(workspace.tensor), "workspace_size": size}
    assert call.run() == 0, c_abi.last_error()
    return calls.Result(out.values(), lse.values())


def test_a_caller_of_the_first_header(backend):
    """Its params struct ends with `stream`: what lies behind is not read."""

    def change(call):
        call.fields |= {"max_seqlen_q": -7, "cp_world": -7}  # not the caller's
        call.struct_size = call.first_sizeof

    same_bits(calls.run(STEP, backend), run_changed(backend, change))


def test_options_of_a_gpu_do_nothing_on_the_cpu(backend, monkeypatch):
    if backend.name != "cpu":
        pytest.skip("they count there: tests/gpu")
    decoded = calls.run(STEP, backend)
    monkeypatch.setenv("FLASHMLA_FORCE_KERNEL", "no such kernel")
    same_bits(decoded, run_changed(backend, lambda call: call.fields.update(stream=0x1234567)))
    same_bits(decoded, calls.run(STEP.but(plan="fresh"), backend))


@pytest.mark.parametrize("softmax_scale", [1e-30, 1e-38, 1e-40, 1e-45])
def test_a_softmax_scale_that_leaves_all_weights_equal(backend, softmax_scale):
    """Subnormal ones, too."""
    calls.check(STEP.but(softmax_scale=softmax_scale), backend)
