"""Tables that name nothing, and tensors whose rows are one row: what is only read may have strides of 0."""

from __future__ import annotations

import numpy as np
import pytest

import c_abi
from ops.dense_decode import calls
from ops.dense_decode.case import Case, make_data
from ops.dense_decode.relations import MIXED, STEP, same_bits


@pytest.mark.parametrize("plan", ["none", "fresh"])
@pytest.mark.parametrize("batch_invariant", [False, True])
@pytest.mark.parametrize("case", [STEP, MIXED, STEP.but(h_q=64, h_kv=1)], ids=["one", "varlen", "heads"])
def test_a_table_without_columns_means_that_all_is_empty(backend, case, plan, batch_invariant):
    """An idle rank's table is as wide as its longest request."""
    given = ("out", "lse", "workspace", "plan_buffer")
    case = case.but(max_blocks=0, plan=plan, batch_invariant=batch_invariant, given=given, empty_lse_minus=True)
    result = calls.run(case, backend)
    rows = case.owners() > 0 if case.cu_seqlens_q is not None else slice(None)
    assert not result.out[rows].any()
    lse = result.lse[:, rows] if case.cu_seqlens_q is not None else result.lse
    assert np.all(lse == -np.inf)


def repeated(case: Case, backend, name: str, axes: tuple[int, ...]) -> tuple[calls.Result, calls.Result]:
    """A call whose tensor `name` has the stride 0 along `axes`, and one where it is written out."""
    numbers = make_data(case)
    values = getattr(numbers, name)
    for axis in axes:
        values[...] = np.take(values, [0], axis)
    tensors = calls.Tensors(case, backend, numbers)
    results = []
    for strides in (False, True):
        out, lse = tensors.place("out"), tensors.place("lse")
        call = tensors.c_call("dense_decode", out=out, lse=lse)
        if strides:
            made = call.tensors[name]
            made.strides = [0 if axis in axes else n for axis, n in enumerate(compact(made.shape))]
        status, size = call.size()
        assert status == 0, c_abi.last_error()
        scratch = tensors.scratch(size)
        call.give_scratch(tensors.adapter.address(scratch.tensor), size)
        assert call.run() == 0, c_abi.last_error()
        results.append(calls.Result(out.values(), lse.values()))
    return results[0], results[1]


def compact(shape) -> list[int]:
    return [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]


def test_requests_share_a_row_of_the_page_table(backend):
    same_bits(*repeated(STEP, backend, "block_table", (0,)))


@pytest.mark.parametrize(
    ("name", "axes"), [("q", (0,)), ("q", (0, 1)), ("q", (2,)), ("kv_cache", (0,)), ("kv_cache", (1, 2))]
)
def test_rows_of_latents_are_repeated(backend, name, axes):
    if backend.name != "cpu":
        pytest.skip("refused there by name, see the random invalid calls: tensor maps have no strides of 0")
    same_bits(*repeated(STEP, backend, name, axes))
