"""The barriers of kernels whose rows a warpgroup of its own fetches, in a model."""

from __future__ import annotations

import pytest

from ops.dense_decode.producer_model import CopiesArrive, Pair, PairTurns, ProducerModel, Turns
from ops.dense_decode.test_gather_barriers import fails, miscounted, run_in_any_order

ALL = [ProducerModel, CopiesArrive, Turns, Pair, PairTurns]
MODELS = pytest.mark.parametrize("model", ALL)
# but for those whose counts are of warps of the producer: below
OTHERS = [(model, barrier.name) for model in ALL for barrier in model.barriers]
OTHERS = [(model, name) for model, name in OTHERS if name not in ("full", "fetched", "rope")]


@MODELS
@pytest.mark.parametrize("slots", [3, 4, 5])
def test_no_deadlock_and_the_right_items(model, slots):
    run_in_any_order(model, slots if model.copies_arrive else 3)


@MODELS
@pytest.mark.parametrize("change", [-32, 1, 32])  # a warp, or a thread
def test_a_wrong_count_of_arrivals_is_noticed(model, change):
    assert fails(miscounted(model, "full", change))
    if not model.copies_arrive:
        assert fails(miscounted(model, "fetched", change))


@pytest.mark.parametrize(("model", "barrier"), OTHERS)
def test_a_wrong_count_of_others_is_noticed(model, barrier):
    assert fails(miscounted(model, barrier, 1))


def test_rows_that_are_not_waited_for_are_noticed():
    class Careless(ProducerModel):
        waits_for_rows = False

    assert fails(Careless)


def test_slices_that_items_take_in_turn():
    class Hasty(Turns):
        waits_for_last = False

    class Careless(Turns):
        waits_for_rope = False

    assert fails(Hasty)
    assert fails(Careless)
    assert fails(miscounted(Turns, "rope", -32))
    assert fails(miscounted(Turns, "rope", 32))


@pytest.mark.parametrize("model", [Pair, PairTurns])
def test_what_the_other_cta_makes_is_waited_for(model):
    class Unannounced(model):
        announces = False

    class Hasty(model):
        """A slot is given back to the own CTA alone."""

        waits_for_pair = False

    class Careless(model):
        """Rows are staged when this CTA's are done, whatever the other one has."""

        waits_for_copies = False

    class Early(model):
        """What is made is copied whatever the other CTA still needs there."""

        waits_for_place = False

    assert fails(Unannounced)
    assert fails(Early)
    assert fails(Hasty)
    assert fails(Careless)


def test_a_record_that_is_written_too_early_is_noticed():
    class Hasty(Pair):
        """The producer counts on items for which it has not waited."""

        waits_for_rest = False

    assert fails(Hasty)


def late(model):
    """Warps may be late by more than a unit."""

    class Late(model):
        copies_take = 1, 20
        stalls = 500, 1500

    return Late


@pytest.mark.parametrize("model", [Pair, PairTurns])
def test_warps_that_are_late(model):
    run_in_any_order(late(model), 3)


def test_a_wait_behind_the_last_arrival_is_noticed():
    class Behind(late(Pair)):
        """Then the others may be done with the unit before a warp waits for the one before it."""

        def has_arrived(self, block, item):
            yield from super().has_arrived(block, item)
            yield from self.await_room(block, item)

    assert fails(Behind)
