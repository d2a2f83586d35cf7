"""The barriers of sparse_decode in a model: those of rows that are gathered, where loaders tell which are attended."""

from __future__ import annotations

import pytest

from ops.dense_decode.test_gather_barriers import fails, miscounted, run_in_any_order
from ops.sparse_decode.telling_model import CopiesArriveAndTell

MODELS = pytest.mark.parametrize("model", [CopiesArriveAndTell])


@MODELS
def test_no_deadlock_and_the_right_items(model):
    run_in_any_order(model, 3)


@MODELS
@pytest.mark.parametrize("change", [-32, 1, 32])  # a warp, or a thread
def test_a_wrong_count_of_loaders_is_noticed(model, change):
    assert fails(miscounted(model, "full", change))
