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
LONG = CHUNK.but(h_q=128, s_q=1, num_blocks=32, plan="stale")
# Requests and their length, by level. The backends' pieces and slots differ, and so does what scratch has room for.
CALLS = {
    "cpu": ((2, 1 << 16), (4, 1 << 16), (100, 40_000)),
    "gpu": ((4, 1 << 16), (32, 1 << 16), (40, 1 << 20)),
}
FEWEST, MOST = 46, 144  # processors of a GPU that has these levels


def long_case(name: str, level: int):
    """A case, and the lengths that its plan sees."""
    requests, longest = CALLS[name][level]
    return LONG.but(max_blocks=longest // 64, lengths=(longest,) * requests), [longest] * requests


def tiling_of(limits: schedule.Limits, case) -> schedule.Tiling:
    extents = {name: getattr(case, name) for name in ("batch", "s_q", "h_q", "h_kv", "max_blocks", "page_size")}
    return schedule.tile(limits, **extents, num_splits=0, batch_invariant=True)


def level_of(backend, case, numbers) -> int:
    """That of the plan."""
    tensors = calls.Tensors(case, backend, numbers)
    plan = calls.stale_plan(tensors)
    limits = schedule.cpu() if backend.name == "cpu" else schedule.hopper(processors(backend))
    return schedule.level(plan.buffer.values(), tiling_of(limits, case))


def processors(backend) -> int:
    import torch

    found = torch.cuda.get_device_properties(backend.device[1]).multi_processor_count
    if not FEWEST <= found <= MOST:
        pytest.skip(f"on {found} processors the calls may have other levels")
    return found


def planned(case, lengths, given):
    """A call with these lengths by a plan that was made for others, and its numbers."""
    case = case.but(lengths=tuple(map(int, given)))
    numbers = make_data(case)
    numbers.stale_seqlens = np.array(lengths, np.int32)
    return case, numbers


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_calls_on_gpus_have_these_levels(level):
    """By the definition of the schedule."""
    case, lengths = long_case("gpu", level)
    for limits in map(schedule.hopper, (FEWEST, 78, 114, 132, MOST)):
        found = schedule.schedule(limits, tiling_of(limits, case), schedule.units(limits, lengths, case.capacity))
        assert found.first_slot[-1] == level


@pytest.mark.parametrize("level", [0, 1, 2])
def test_each_level_is_right_and_has_the_bits_of_each_request_alone(backend, level):
    """With lengths that have the number of pieces that the plan saw, or whole tiles."""
    case, lengths = long_case(backend.name, level)
    draw = np.random.default_rng(level)
    fewer = draw.integers(0, 500, case.batch)
    case, numbers = planned(case, lengths, lengths - fewer if level < 2 else fewer)
    assert level_of(backend, case, numbers) == level
    together = calls.run(case, backend, numbers)
    if level == 2:
        calls.check_result(case, numbers, together)
    for i in {0, 1, case.batch - 1}:
        alone, lone_numbers = gathered(case.but(plan="none"), numbers, [i])
        same_bits(together.request(case, i), calls.run(alone, backend, lone_numbers).request(alone, 0))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_other_lengths_than_the_plan_saw_are_right(backend, level):
    case, lengths = long_case(backend.name, level)
    given = [3, 20_480, 0, 700, *[65] * case.batch][: case.batch]
    case, numbers = planned(case, lengths, given)
    assert level_of(backend, case, numbers) == level
    calls.check_result(case, numbers, calls.run(case, backend, numbers))
    case, numbers = planned(case, given, given[::-1])
    calls.check_result(case, numbers, calls.run(case, backend, numbers))
