"""Every dense_decode kernel of the table, forced in turn, against the oracle."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given
from hypothesis import strategies as st

import flashmla
from gpu.kernel_rows import FORCE, last_kernel, rows_of
from ops.dense_decode import calls, strategies
from ops.dense_decode.case import ON_GPUS
from ops.dense_decode.sanitizer_cases import decode_cases, fields_of, geometries_of, is_split, may_fit, run_decode
from properties import share

torch = pytest.importorskip("torch")
from gpu.steps import STEP  # noqa: E402 - needs PyTorch

ROWS = rows_of("dense_decode")
of_every_row = pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])


@of_every_row
def test_every_kernel_is_right(gpu, row):
    cases = decode_cases(torch.cuda.get_device_properties(gpu.device[1]).multi_processor_count)
    done = [case for case in cases if may_fit(row, case) and run_decode(row, case, gpu)]
    assert any(is_split(case) for case in done)


@of_every_row
@pytest.mark.timeout(300, method="thread")  # the oracle takes long where many processes run
def test_any_call_that_a_kernel_does(gpu, row):
    @share(1 / 10, suppress_health_check=[HealthCheck.filter_too_much])  # which pages and clusters fit is drawn
    @given(data=st.data())
    def any_call(data):
        d_qk = data.draw(st.sampled_from(geometries_of(row)))
        case = data.draw(strategies.cases(gpu, route="torch", **(fields_of(row) | {"d_qk": d_qk})))
        assume(0 not in case.shapes()["out"])  # an empty call runs no kernel
        assume(run_decode(row, case, gpu))

    any_call()


@of_every_row
def test_a_kernel_that_does_not_fit_is_refused(gpu, row, monkeypatch):
    other = {"bfloat16": "float16", "float16": "bfloat16"}[row["dtype"]]
    monkeypatch.setenv(FORCE, row["name"])
    with pytest.raises(flashmla.UnsupportedError, match=row["name"]):
        calls.run(STEP.but(dtype=other), gpu)


def test_an_unknown_kernel_is_refused(gpu, monkeypatch):
    monkeypatch.setenv(FORCE, "dense_decode_of_another_library")
    with pytest.raises(flashmla.UnsupportedError, match="dense_decode_of_another_library"):
        calls.run(STEP, gpu)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("d_qk", ON_GPUS)
@pytest.mark.parametrize("page_size", [64, 16, 1, 256, 48, 96])
@pytest.mark.parametrize("h_q", [16, 96, 128])
def test_the_kernel_that_was_chosen_can_be_forced(gpu, dtype, d_qk, page_size, h_q):
    """It is a row of the table, of q's dtype; forcing it changes no bit."""
    case = STEP.but(
        dtype=dtype, d_qk=d_qk, h_q=h_q, h_kv=1, page_size=page_size, max_blocks=400 // page_size + 1, num_blocks=500
    )
    data = calls.make_data(case)
    result = calls.run(case, gpu, data)
    calls.check_result(case, data, result)
    row = next(row for row in ROWS if row["name"] == last_kernel())
    assert row["dtype"] == dtype
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FORCE, row["name"])
        assert calls.run(case, gpu, data).bits() == result.bits()
    assert last_kernel() == row["name"]
