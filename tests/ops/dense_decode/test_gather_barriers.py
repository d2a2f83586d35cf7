"""The barriers of kernels that gather rows, in a model: it never stops, nobody finds what he does not expect, and a
wrong number in the kernel's table is noticed.
"""

from __future__ import annotations

import dataclasses
import random

import pytest

from ops.dense_decode.gather_model import Boxed, CodeProducts, CopiesArrive, GatherModel

LENGTHS = [1, 1, 1, 1, 2, 2, 3, 4, 5, 7]
MODELS = pytest.mark.parametrize("model", [GatherModel, CopiesArrive, Boxed, CodeProducts])


def run_in_any_order(model: type[GatherModel], slots: int) -> None:
    for seed in range(60):
        draw = random.Random(seed)
        model([draw.choice(LENGTHS) for _ in range(draw.randint(0, 12))], slots, model.ctas, seed).run()


def miscounted(model: type[GatherModel], name: str, change: int) -> type[GatherModel]:
    """With another count of arrivals at a barrier."""

    class Wrong(model):
        barriers = tuple(
            dataclasses.replace(b, arrivals=b.arrivals + change) if b.name == name else b for b in model.barriers
        )

    return Wrong


@MODELS
@pytest.mark.parametrize("slots", [3, 4, 5])
def test_no_deadlock_and_the_right_items(model, slots):
    run_in_any_order(model, slots)


def fails(model: type[GatherModel], runs: int = 20) -> bool:
    for seed in range(runs):
        draw = random.Random(seed)
        try:
            model([draw.choice(LENGTHS) for _ in range(60)], 3, model.ctas, seed).run()
        except AssertionError:
            return True
    return False


@MODELS
@pytest.mark.parametrize("change", [-32, 1, 32])  # a warp, or a thread
def test_a_wrong_count_of_loaders_is_noticed(model, change):
    assert fails(miscounted(model, "full", change))


@pytest.mark.parametrize("pieces", [[7], [2, 1]])
def test_copies_that_are_not_waited_for_are_noticed(pieces):
    """By the warps of a half, of each other: at the end of the work, where no fetch waits for them."""

    class Hasty(CodeProducts):
        def await_other_warps(self, *_):
            yield from ()

    def outcomes(model):
        for seed in range(60):
            try:
                model(pieces, 4, 1, seed).run()
            except AssertionError as failure:
                yield str(failure)

    assert "a copy is overwritten that somebody reads" in set(outcomes(Hasty))
    assert not set(outcomes(CodeProducts))


def test_a_wrong_count_of_boxes_is_noticed():
    assert fails(miscounted(Boxed, "raw", 1))


def test_the_phase_of_codes_goes_on_with_a_q():
    class Wrong(Boxed):
        def pass_q(self, _block, _half, _item):
            yield from ()

    assert fails(Wrong)


def test_rows_that_are_not_waited_for_are_noticed():
    class Careless(GatherModel):
        waits_for_rows = False

    assert fails(Careless)
