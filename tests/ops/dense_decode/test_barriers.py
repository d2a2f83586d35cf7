"""The barriers of dense_decode in a model: it never stops, nobody finds what he does not expect, and a wrong number in
the kernel's table is noticed.
"""

from __future__ import annotations

import dataclasses
import random

import pytest

from dsl_kernels.dense_decode.barrier_table import BARRIERS, INVARIANT, first, gathering, total
from ops.dense_decode.barrier_model import Model

NAMES = list(dict.fromkeys(barrier.name for barrier in (*BARRIERS, *INVARIANT)))
LENGTHS = [1, 1, 1, 1, 2, 2, 3, 4, 5, 7]


@pytest.mark.parametrize("cluster", [1, 2])
@pytest.mark.parametrize("slots", [3, 5])
def test_no_deadlock_and_the_right_items(slots, cluster):
    for seed in range(40):
        draw = random.Random(seed)
        tiles = [draw.choice(LENGTHS) for _ in range(draw.randint(0, 12))]
        Model(tiles, slots, cluster, seed).run()


def share_q(draw: random.Random, tiles: list[int], least: int = 2) -> tuple[list[int], list[bool]]:
    """Runs of pieces that share a Q, and behind the first have `least` units."""
    more = [*(draw.random() < 0.7 for _ in tiles[1:]), *([False] if tiles else [])]
    return [max(n, least) if i and more[i - 1] else n for i, n in enumerate(tiles)], more


@pytest.mark.parametrize("cluster", [1, 2])
@pytest.mark.parametrize("slots", [3, 5])
def test_no_deadlock_where_pieces_share_a_q(slots, cluster):
    for seed in range(40):
        draw = random.Random(seed)
        tiles = [draw.choice(LENGTHS) for _ in range(draw.randint(0, 12))]
        tiles, more = share_q(draw, tiles)
        Model(tiles, slots, cluster, seed, more).run()


def fails(model: type[Model], cluster: int, runs: int = 20, slots: int = 3, least: int = 2) -> bool:
    """With tiles long and short, many phases of each barrier."""
    for seed in range(runs):
        draw = random.Random(seed)
        tiles = [draw.choice(LENGTHS) for _ in range(60)]
        more = None
        if seed % 2:
            tiles, more = share_q(draw, tiles, least)
        try:
            model(tiles, slots, cluster, seed, more).run()
        except AssertionError:
            return True
    return False


def test_sums_that_are_not_waited_for_are_noticed():
    class Careless(Model):
        waits_for_sums = False

    assert fails(Careless, 1)


def test_a_fold_that_waits_for_no_other_warp_is_noticed():
    class Careless(Model):
        folds_at_once = True

    assert fails(Careless, 1)


@pytest.mark.parametrize("cluster", [1, 2])
@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_count_is_noticed(name, change, cluster):
    def other(barrier):
        return dataclasses.replace(barrier, arrivals=barrier.arrivals + change) if barrier.name == name else barrier

    class Wrong(Model):
        barriers, of_invariant = tuple(map(other, BARRIERS)), tuple(map(other, INVARIANT))

    assert fails(Wrong, cluster)


@pytest.mark.parametrize("name", NAMES)
def test_arrivals_of_one_cta_too_many_or_too_few_are_noticed(name):
    def other(barrier):
        return dataclasses.replace(barrier, cluster=not barrier.cluster) if barrier.name == name else barrier

    class Wrong(Model):
        barriers, of_invariant = tuple(map(other, BARRIERS)), tuple(map(other, INVARIANT))

    assert fails(Wrong, 2)


def test_the_table_as_it_is_keeps_the_same_run_going():
    assert not fails(Model, 1, runs=2)
    assert not fails(Model, 2, runs=2)


@pytest.mark.parametrize("slots", [3, 5])
def test_a_second_piece_of_one_unit_is_noticed(slots):
    """The reader could write the record of the piece after it while PV still looks at that of the piece before."""
    assert fails(Model, 2, runs=200, slots=slots, least=1)


@pytest.mark.parametrize("slots", [3, 5])
def test_a_record_fewer_is_noticed(slots):
    class Fewer(Model):
        fewer_records = 1

    assert fails(Fewer, 2, slots=slots)


def test_a_reader_that_waits_for_one_half_only_is_noticed():
    class Left(Model):
        reader_half = 0

    assert fails(Left, 2, runs=300)


def test_a_wait_for_a_phase_that_may_pass_twice_is_noticed():
    """QK alone gives Q's slot back, which may be filled again before PV looks."""

    class Careless(Model):
        pv_waits_for_q = True

    def run() -> None:
        for seed in range(200):
            Careless([7] * 6, 3, 1, seed).run()

    with pytest.raises(AssertionError, match="a deadlock"):
        run()


def test_a_phase_that_nobody_waits_for_is_noticed():
    class Deaf(Model):
        qk_waits_for_q = False

    for more in (None, [False, False]):
        with pytest.raises(AssertionError, match="a phase that nobody waits for"):
            Deaf([7, 7], 3, 1, 0, more).run()


@pytest.mark.parametrize("table", [BARRIERS, INVARIANT, gathering(), gathering(boxed=True)])
def test_barriers_lie_one_after_another(table):
    for slots in (3, 5):
        found = [first(barrier.name, slots, table) + i for barrier in table for i in range(barrier.number(slots))]
        assert found == list(range(total(slots, table)))
