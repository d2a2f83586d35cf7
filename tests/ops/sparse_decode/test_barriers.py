"""The barriers of sparse_decode in a model: those of rows that are gathered, where loaders tell which are attended."""

from __future__ import annotations

import dataclasses
import random

import pytest

from ops.dense_decode.test_gather_barriers import LENGTHS, fails
from ops.sparse_decode.telling_model import CopiesArriveAndTell, Tells

MODELS = pytest.mark.parametrize("model", [Tells, CopiesArriveAndTell])


@MODELS
def test_no_deadlock_and_the_right_items(model):
    for seed in range(60):
        draw = random.Random(seed)
        model([draw.choice(LENGTHS) for _ in range(draw.randint(0, 12))], 3, 1, seed).run()


@MODELS
@pytest.mark.parametrize("change", [-32, 1, 32])  # a warp, or a thread
def test_a_wrong_count_of_loaders_is_noticed(model, change):
    class Wrong(model):
        barriers = tuple(
            dataclasses.replace(b, arrivals=b.arrivals + change) if b.name == "full" else b for b in model.barriers
        )

    assert fails(Wrong)
