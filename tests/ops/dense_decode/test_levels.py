"""Batch-invariant calls with more partial results than their scratch has room for: cuts move apart, bits stay."""

from __future__ import annotations

import numpy as np
import pytest

import schedule
from attention import same_bits
from ops.dense_decode import calls
from ops.dense_decode.case import gathered, make_data
from ops.dense_decode.relations import CHUNK

# Many query rows, so that slots are large; all read the same few pages.
PAGES = 1024
LONG = CHUNK.but(h_q=128, s_q=1, num_blocks=32, max_blocks=PAGES, lengths=(64 * PAGES,), plan="stale")


def level_of(backend, case, numbers) -> int:
    """That of the plan."""
    tensors = calls.Tensors(case, backend, numbers)
    plan = calls.stale_plan(tensors)
    extents = {name: getattr(case, name) for name in ("batch", "s_q", "h_q", "h_kv", "max_blocks", "page_size")}
    tiling = schedule.tile(schedule.cpu(), **extents, num_splits=0, batch_invariant=True)
    return int(schedule.read(plan.buffer.values(), tiling, case.batch).first_slot[-1])


def planned(case, lengths, given):
    """A call with these lengths by a plan that was made for others, and its numbers."""
    case = case.but(lengths=tuple(given))
    numbers = make_data(case)
    numbers.stale_seqlens = np.array(lengths, np.int32)
    return case, numbers


@pytest.mark.parametrize("level", [0, 1, 2])
def test_each_level_is_right_and_has_the_bits_of_each_request_alone(backend, level):
    """With lengths that have the number of pieces that the plan saw, or whole tiles."""
    requests = (2, 4, 100)[level] if backend.name == "cpu" else (4, 32, 200)[level]
    longest = 64 * PAGES if level < 2 else 40_000
    draw = np.random.default_rng(level)
    given = longest - draw.integers(0, 500, requests) if level < 2 else draw.integers(0, 900, requests)
    case, numbers = planned(LONG, [longest] * requests, map(int, given))
    if backend.name == "cpu":
        assert level_of(backend, case, numbers) == level
    together = calls.run(case, backend, numbers)
    if level == 2:
        calls.check_result(case, numbers, together)
    for i in {0, 1, requests - 1}:
        alone, lone_numbers = gathered(case.but(plan="none"), numbers, [i])
        same_bits(together.request(case, i), calls.run(alone, backend, lone_numbers).request(alone, 0))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_other_lengths_than_the_plan_saw_are_right(backend, level):
    requests, longest = ((4, 20_000), (4, 64 * PAGES), (100, 40_000))[level]
    given = [3, 20_480, 0, 700] + [65] * (requests - 4)
    case, numbers = planned(LONG, [longest] * requests, given)
    calls.check_result(case, numbers, calls.run(case, backend, numbers))
    case, numbers = planned(LONG, given, given[::-1])
    calls.check_result(case, numbers, calls.run(case, backend, numbers))
