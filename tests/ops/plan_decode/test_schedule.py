"""The NumPy schedule against the host's: what judges the device scheduler is itself right."""

import numpy as np
import pytest

import c_abi
import schedule
import shape_only
from buffers import aligned_bytes
from ops.dense_decode.case import Case
from ops.dense_decode.shape_only import plan_call

CPU = schedule.cpu()
PAGE_SIZES = (16, 64, 256)


def host_cuts(case, lengths, offsets, tiling):
    """What plan_decode writes for CPU tensors, of which it looks at lengths and offsets only."""
    call = plan_call(case, (shape_only.CPU, 0))
    lengths = lengths.astype(np.int32)
    call.tensors["cache_seqlens"].data = lengths.ctypes.data
    if offsets is not None:
        call.tensors["cu_seqlens_q"].data = offsets.ctypes.data
    _, size = call.size()
    buffer = aligned_bytes(size)
    call.fields |= {"buffer": buffer.ctypes.data, "buffer_size": size}
    assert call.run(c_abi.new_plan()) == 0, c_abi.last_error()
    return schedule.read(buffer, tiling, case.batch)


@pytest.mark.parametrize("num_splits", [0, 1, 3, 32, 1024, "invariant"])
@pytest.mark.parametrize("spread", schedule.SPREADS)
@pytest.mark.parametrize("varlen", [False, True], ids=["batched", "varlen"])
def test_cuts_are_those_of_the_host_scheduler(num_splits, spread, varlen):
    draw = np.random.default_rng((len(str(num_splits)), len(spread), varlen))
    invariant = num_splits == "invariant"
    forced = 0 if invariant else num_splits
    for _ in range(60 if num_splits == 0 else 5):
        batch, s_q, page_size = int(draw.integers(1, 40)), int(draw.integers(1, 4)), int(draw.choice(PAGE_SIZES))
        max_blocks = int(draw.integers(1024, 3000)) * 64 // page_size
        lengths = schedule.draw_lengths(draw, spread, batch, page_size * max_blocks)
        extents = {"s_q": s_q, "h_q": 2 * CPU.block_rows, "h_kv": int(draw.choice([1, 2])), "max_blocks": max_blocks}
        extents |= {"page_size": page_size, "batch_invariant": invariant}
        offsets, total = schedule.draw_offsets(draw, batch, s_q) if varlen else (None, 0)
        case = Case(**extents, lengths=tuple(map(int, lengths)), num_splits=forced)
        tokens = None
        if varlen:
            case = case.but(cu_seqlens_q=tuple(map(int, offsets)), total_q=total)
            tokens = schedule.query_tokens(offsets, total, s_q)
        extents["s_q"] = case.most_queries
        tiling = schedule.tile(CPU, batch=batch, **extents, num_splits=forced, varlen=varlen)
        found_cuts, found_costs = host_cuts(case, lengths, offsets, tiling)
        cuts, costs = schedule.cuts(CPU, tiling, schedule.units(CPU, lengths, page_size * max_blocks), tokens)
        np.testing.assert_array_equal(found_cuts, cuts)
        np.testing.assert_array_equal(found_costs, costs)


@pytest.mark.parametrize("d", [1, 2, 3, 5, 7, 64, 127, 128, 641, 65_535, 10**6 + 3, 2**30 - 1, 2**30, 2**31 - 1])
def test_a_multiplication_divides(d):
    """schedule.divide of the kernels, in 64 bits."""
    packed = schedule.divisor(d)
    shift, multiplier = packed >> 32, packed & 0xFFFFFFFF
    assert multiplier < 2**32
    near = {k * d + e for k in (0, 1, 2, 1000, (2**31 - 1) // d) for e in (-1, 0, 1)}
    for n in {*near, 0, 1, 2**31 - 1, 2**31 - 2, 123_456_789}:
        if 0 <= n < 2**31:
            assert n * multiplier < 2**63
            assert n * multiplier >> shift == n // d
