"""The scheduler on the device writes the schedule of the definition, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flashmla
import schedule

CASES = 40  # a seed


@pytest.mark.parametrize("mode", ["balanced or forced", "batch invariant"])
@pytest.mark.parametrize("varlen", [False, True], ids=["fixed", "varlen"])
@pytest.mark.parametrize("seed", range(6))
def test_cuts_are_those_of_the_definition(gpu, seed, varlen, mode):
    draw = np.random.default_rng((seed, varlen, len(mode)))
    limits = schedule.hopper(torch.cuda.get_device_properties(gpu.device[1]).multi_processor_count)
    device = torch.device("cuda", gpu.device[1])
    element = torch.zeros(1, dtype=torch.bfloat16, device=device)
    entry = torch.zeros(1, dtype=torch.int32, device=device)
    invariant = mode == "batch invariant"
    for number in range(CASES):
        batch = int(draw.choice([1, 2, int(draw.integers(3, 132)), int(draw.integers(132, 701))]))
        s_q, h_kv = int(draw.choice([1, 1, 2, 3, 5])), int(draw.choice([1, 1, 2, 4]))
        h_q = h_kv * int(draw.choice([1, 16, 64, 65, 128]))
        page_size = int(draw.choice([64, 64, 16, 1, 256, 80]))
        max_blocks = int(draw.choice([1, 2, 64, 3126])) * 64 // page_size + 1  # 3126 * 64 are 200,000 tokens
        num_splits = 0 if invariant else int(draw.choice([0, 0, 0, 0, 1, 2, 7, 32]))
        spread = schedule.SPREADS[number % len(schedule.SPREADS)]
        lengths = schedule.draw_lengths(draw, spread, batch, page_size * max_blocks)
        options = {"num_splits": num_splits, "batch_invariant": invariant}
        tokens, rows, total_q = None, (batch, s_q), 0
        if varlen:
            offsets, total_q = schedule.draw_offsets(draw, batch, s_q)
            tokens, rows = schedule.query_tokens(offsets, total_q, s_q), (total_q,)
            options |= {"cu_seqlens_q": torch.tensor(offsets, device=device), "max_seqlen_q": s_q}
        # A plan looks at shapes, lengths and offsets only, so one element stands for each of the other tensors.
        q = element.expand(*rows, h_q, 576)
        kv_cache = element.expand(1, page_size, h_kv, 576)
        table = entry.expand(batch, max_blocks)
        arguments = (q, kv_cache, table, torch.tensor(lengths, dtype=torch.int32, device=device))
        size = flashmla.plan_decode_size(*arguments, **options)
        buffer = torch.full((size,), 0xFF, dtype=torch.uint8, device=device)
        flashmla.plan_decode(*arguments, **options, buffer=buffer)

        most = min(s_q, total_q) if varlen else s_q
        extents = {"batch": batch, "s_q": most, "h_q": h_q, "h_kv": h_kv, "max_blocks": max_blocks}
        extents |= {"page_size": page_size, "num_splits": num_splits, "varlen": varlen, "batch_invariant": invariant}
        extents["total_q"] = total_q
        tiling = schedule.tile(limits, **extents)
        found = schedule.read(buffer.cpu().numpy(), tiling, batch)
        units = schedule.units(limits, lengths, page_size * max_blocks)
        schedule.same(found, schedule.schedule(limits, tiling, units, tokens), f"{extents}, lengths {spread}")
