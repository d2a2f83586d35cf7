"""plan_sparse_decode on a GPU: the schedule of the definition."""

from __future__ import annotations

import numpy as np
import pytest

import flashmla
import schedule
from ops.sparse_decode.launches import UNIT, limits_of

torch = pytest.importorskip("torch")

CASES = 40  # a seed


@pytest.mark.parametrize("varlen", [False, True], ids=["fixed", "varlen"])
@pytest.mark.parametrize("seed", range(4))
def test_cuts_are_those_of_the_definition(gpu, seed, varlen):
    draw = np.random.default_rng((seed, varlen))
    device = torch.device("cuda", gpu.device[1])
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    row, index = (torch.zeros(1, dtype=dtype, device=device) for dtype in (torch.bfloat16, torch.int32))
    for number in range(CASES):
        batch, s_q = int(draw.choice([1, 2, int(draw.integers(3, 700))])), int(draw.choice([1, 1, 2, 5]))
        h_q, topk = int(draw.choice([1, 64, 65, 128])), int(draw.choice([0, 1, 64, 65, 2048, 100_000]))
        extra_topk, num_splits = int(draw.choice([0, 0, 1, 130, 4096])), int(draw.choice([0, 0, 0, 1, 2, 32]))
        spread = schedule.SPREADS[number % len(schedule.SPREADS)]
        lengths = [schedule.draw_lengths(draw, spread, batch, most) for most in (topk, extra_topk)]
        tokens, rows, total_q, options = None, (batch, s_q), 0, {}
        if varlen:
            offsets, total_q = schedule.draw_offsets(draw, batch, s_q)
            tokens, rows = schedule.query_tokens(offsets, total_q, s_q), (total_q,)
            options = {"cu_seqlens_q": torch.tensor(offsets, device=device), "max_seqlen_q": s_q}
        given = [torch.tensor(values, dtype=torch.int32, device=device) for values in lengths]
        invariant = bool(draw.integers(3) == 0)
        kv_format = str(draw.choice(["bf16", "v32"]))
        options |= {"topk_length": given[0], "num_splits": num_splits, "batch_invariant": invariant}
        options |= {"kv_format": kv_format}
        if extra_topk:
            options |= {"extra_indices": index.expand(*rows, extra_topk), "extra_topk_length": given[1]}
        # Only shapes, lengths and offsets are looked at, so one element stands for each of the other tensors.
        arguments = (row.expand(*rows, h_q, 576), index.expand(*rows, topk))
        size = flashmla.plan_sparse_decode_size(*arguments, **options)
        buffer = torch.full((size,), 0xFF, dtype=torch.uint8, device=device)
        flashmla.plan_sparse_decode(*arguments, **options, buffer=buffer)

        extents = {"batch": batch, "s_q": min(s_q, total_q) if varlen else s_q, "h_q": h_q, "h_kv": 1}
        extents |= {"max_blocks": schedule.ceil(topk, UNIT) + schedule.ceil(extra_topk, UNIT), "varlen": varlen}
        extents |= {"num_splits": num_splits, "batch_invariant": invariant, "total_q": total_q, "own_items": True}
        limits = limits_of(total_q if varlen else batch * s_q, h_q, kv_format, processors)
        tiling = schedule.tile(limits, **extents)
        found = schedule.read(buffer.cpu().numpy(), tiling, batch)
        units = schedule.units(limits, lengths[0], topk) + schedule.units(limits, lengths[1], extra_topk)
        schedule.same(found, schedule.schedule(limits, tiling, units, tokens), f"{extents}, lengths {spread}")
