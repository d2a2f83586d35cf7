"""plan_sparse_decode on a GPU: the schedule of the definition, and what calls make of one that holds anything."""

from __future__ import annotations

import numpy as np
import pytest

import flashmla
import schedule
from buffers import Guarded
from ops.sparse_decode import calls
from ops.sparse_decode.case import Cache, SparseCase
from ops.sparse_decode.launches import UNIT, limits_of
from ops.sparse_decode.relations import MIXED, STEP, TWOFOLD

torch = pytest.importorskip("torch")

CASES = 40  # a seed
INT32 = 2**31


@pytest.mark.parametrize("varlen", [False, True], ids=["fixed", "varlen"])
@pytest.mark.parametrize("seed", range(4))
def test_cuts_are_those_of_the_definition(gpu, seed, varlen):
    draw = np.random.default_rng((seed, varlen))
    device = torch.device("cuda", gpu.device[1])
    limits = limits_of(torch.cuda.get_device_properties(device).multi_processor_count)
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
        options |= {"topk_length": given[0], "num_splits": num_splits}
        if extra_topk:
            options |= {"extra_indices": index.expand(*rows, extra_topk), "extra_topk_length": given[1]}
        # Only shapes, lengths and offsets are looked at, so one element stands for each of the other tensors.
        arguments = (row.expand(*rows, h_q, 576), index.expand(*rows, topk))
        size = flashmla.plan_sparse_decode_size(*arguments, **options)
        buffer = torch.full((size,), 0xFF, dtype=torch.uint8, device=device)
        flashmla.plan_sparse_decode(*arguments, **options, buffer=buffer)

        extents = {"batch": batch, "s_q": min(s_q, total_q) if varlen else s_q, "h_q": h_q, "h_kv": 1}
        extents |= {"max_blocks": schedule.ceil(topk, UNIT) + schedule.ceil(extra_topk, UNIT), "varlen": varlen}
        extents |= {"num_splits": num_splits, "total_q": total_q, "own_items": True}
        tiling = schedule.tile(limits, **extents)
        found = schedule.read(buffer.cpu().numpy(), tiling, batch)
        units = schedule.units(limits, lengths[0], topk) + schedule.units(limits, lengths[1], extra_topk)
        schedule.same(found, schedule.schedule(limits, tiling, units, tokens), f"{extents}, lengths {spread}")


def garbage(draw, kind: int, size: int, tiles: int, units: int) -> np.ndarray:
    """int32 values for a plan's buffer: anything; plausible pairs, in order or not; one value."""
    pairs = np.stack([draw.integers(-2, tiles + 3, size), draw.integers(-2, units + 3, size)], 1)
    constant = np.full(size, draw.choice([-INT32, -1, 0, 1, INT32 - 1, tiles]))
    found = (draw.integers(-INT32, INT32, size), pairs, np.sort(pairs, axis=0), constant)[kind]
    return found.ravel()[:size].astype(np.int32)


LONG = SparseCase(main=Cache(num_blocks=40, topk=2048, lengths=(2048, 5, 700)), batch=3, s_q=2, h_q=128, given=("lse",))


@pytest.mark.parametrize("case", [STEP, TWOFOLD, MIXED, LONG], ids=["step", "two caches", "packed", "long"])
@pytest.mark.parametrize("num_splits", [0, 1, 5])
def test_a_plan_of_garbage_faults_nowhere(gpu, case, num_splits):
    """And the call behind it is right."""
    case = case.but(plan="fresh", num_splits=num_splits)
    tensors = calls.Tensors(case, gpu)
    plan = calls.make_plan(tensors)
    assert plan is not None
    assert isinstance(plan.buffer, Guarded)
    good = calls.decode(tensors, plan)
    calls.check_result(case, tensors.data, good)
    words = plan.buffer.tensor.view(torch.int32)
    kept, draw = words.clone(), np.random.default_rng(num_splits)
    for kind in range(4):
        for _ in range(4):
            units = schedule.ceil(case.main.topk, UNIT) + 1
            words.copy_(torch.from_numpy(garbage(draw, kind, words.numel(), 2 * case.batch * case.s_q, units)))
            plan.buffer.remember()
            calls.decode(tensors, plan)  # any rows; nothing beside its outputs and scratch is written
    words.copy_(kept)
    plan.buffer.remember()
    assert calls.decode(tensors, plan).bits() == good.bits()
