"""The scheduler on the device writes the schedule of the definition, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flashmla
import schedule

CASES = 40  # a seed
SPREADS = ("equal", "random", "short", "one long", "outside")


def draw_lengths(draw, spread: str, batch: int, capacity: int) -> np.ndarray:
    lengths = draw.integers(0, capacity + 1, batch)
    if spread == "equal":
        lengths[:] = lengths[0]
    elif spread == "short":
        lengths %= 130
    elif spread == "one long":
        lengths[draw.permutation(batch)[1:]] %= 70
    elif spread == "outside":
        outside = draw.random(batch) < 0.5
        lengths[outside] = draw.choice([-(2**31), -1, 2**31 - 1, capacity + 1], int(outside.sum()))
    return lengths


@pytest.mark.parametrize("seed", range(10))
def test_cuts_are_those_of_the_definition(gpu, seed):
    draw = np.random.default_rng(seed)
    limits = schedule.hopper(torch.cuda.get_device_properties(gpu.device[1]).multi_processor_count)
    device = torch.device("cuda", gpu.device[1])
    element = torch.zeros(1, dtype=torch.bfloat16, device=device)
    entry = torch.zeros(1, dtype=torch.int32, device=device)
    for number in range(CASES):
        batch = int(draw.choice([1, 2, int(draw.integers(3, 132)), int(draw.integers(132, 701))]))
        s_q, h_kv = int(draw.choice([1, 1, 2, 3, 5])), int(draw.choice([1, 1, 2, 4]))
        h_q = h_kv * int(draw.choice([1, 16, 64, 65, 128]))
        max_blocks = int(draw.choice([1, 2, 64, 3126]))  # 3126 pages hold 200,000 tokens
        num_splits = int(draw.choice([0, 0, 0, 0, 1, 2, 7, 32]))
        lengths = draw_lengths(draw, SPREADS[number % len(SPREADS)], batch, 64 * max_blocks)
        # A plan looks at shapes and lengths only, so one element stands for each of the other tensors.
        q = element.expand(batch, s_q, h_q, 576)
        kv_cache = element.expand(1, 64, h_kv, 576)
        table = entry.expand(batch, max_blocks)
        arguments = (q, kv_cache, table, torch.tensor(lengths, dtype=torch.int32, device=device))
        size = flashmla.plan_decode_size(*arguments, num_splits=num_splits)
        buffer = torch.full((size,), 0xFF, dtype=torch.uint8, device=device)
        flashmla.plan_decode(*arguments, num_splits=num_splits, buffer=buffer)

        extents = {"batch": batch, "s_q": s_q, "h_q": h_q, "h_kv": h_kv, "max_blocks": max_blocks}
        tiling = schedule.tile(limits, **extents, num_splits=num_splits)
        found_cuts, found_costs = schedule.read(buffer.cpu().numpy(), tiling, batch)
        cuts, costs = schedule.cuts(limits, tiling, schedule.units(limits, lengths, 64 * max_blocks))
        what = f"{extents}, num_splits {num_splits}, lengths {SPREADS[number % len(SPREADS)]}"
        np.testing.assert_array_equal(found_cuts, cuts, what)
        np.testing.assert_array_equal(found_costs, costs, what)
