"""Calls that follow a tuning file give the oracle's rows, whatever choice is in it."""

from __future__ import annotations

import contextlib
import itertools

import pytest

import flashmla
from flashmla import _tuning
from gpu.kernel_rows import rows_of
from gpu.steps import STEP
from ops.dense_decode import calls
from ops.dense_decode.case import make_data
from ops.sparse_decode import calls as sparse_calls
from ops.sparse_decode.case import Cache, SparseCase
from ops.sparse_decode.data import make_data as make_sparse
from tuning.entries import dense, sparse

DENSE = [
    STEP.but(route="c"),
    STEP.but(route="c", h_q=384, lengths=(300, 0)),
    STEP.but(route="c", page_size=16, num_blocks=40, max_blocks=20),
    STEP.but(route="c", page_size=3, num_blocks=240, max_blocks=110, dtype="float16"),
    STEP.but(route="c", d_qk=512, window=70),
    STEP.but(route="c", cu_seqlens_q=(0, 1, 3), total_q=3),
    STEP.but(route="c", h_kv=1, kv_format="v32"),
    STEP.but(route="c", h_kv=1, kv_format="fp8", descale_k=0.5),
]
POLICIES = (0, 1, 2)
SPLITS = (0, 1, 2, 5, 64)


@contextlib.contextmanager
def loaded(folder, gpu, entry):
    """A tuning file with that entry."""
    _tuning.save(folder / "tuned", gpu.device[1], [entry])
    flashmla.load_tuning(folder / "tuned")
    try:
        yield
    finally:
        flashmla.load_tuning(None)


@pytest.mark.parametrize("case", DENSE, ids=range(len(DENSE)))
def test_dense_decode_with_every_kernel(gpu, tmp_path, case):
    data, ran = make_data(case), set()
    for number, row in enumerate(rows_of("dense_decode")):
        splits, policy = SPLITS[number % len(SPLITS)], POLICIES[number % len(POLICIES)]
        choice = {"kernel": row["name"], "num_splits": splits, "l2_policy": policy}
        with loaded(tmp_path, gpu, dense(case, **choice)):
            result = calls.run(case, gpu, data)
            kernel = flashmla.last_kernel()
            if kernel != row["name"] and ran:
                continue
            ran.add(kernel)
            calls.check_result(case, data, result)
            calls.check_result(case, data, calls.run(case.but(plan="stale"), gpu, data))
            assert flashmla.last_kernel() == kernel
    assert len(ran) > 1


@pytest.mark.parametrize("splits", SPLITS)
@pytest.mark.parametrize("policy", POLICIES)
def test_dense_decode_with_splits_and_policies(gpu, tmp_path, splits, policy):
    case = DENSE[0]
    data = make_data(case)
    with loaded(tmp_path, gpu, dense(case, num_splits=splits, l2_policy=policy)):
        for plan in ("none", "fresh", "stale"):
            calls.check_result(case, data, calls.run(case.but(plan=plan), gpu, data))


SELECT = SparseCase(main=Cache(num_blocks=8, topk=400), batch=2, s_q=2, h_q=128, given=("lse",), dtype="bfloat16")


@pytest.mark.parametrize(("splits", "plan"), itertools.product(SPLITS, ("none", "fresh", "stale")))
def test_sparse_decode_with_splits(gpu, tmp_path, splits, plan):
    case = SELECT.but(plan=plan)
    data = make_sparse(case)
    with loaded(tmp_path, gpu, sparse(case, num_splits=splits)):
        sparse_calls.check_result(case, data, sparse_calls.run(case, gpu, data))
