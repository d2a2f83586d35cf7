"""The NumPy schedule against the host's: what judges the device scheduler is itself right."""

import numpy as np
import pytest

import c_abi
import made_up
import schedule
from buffers import aligned_bytes
from cases import Case

# fm_cpu_limits for pages of 64 and at least 128 query rows of a KV head; workers only where the tables are this long.
CPU = schedule.Limits(block_rows=128, max_cluster=1, workers=128, start_overhead=1, split_overhead=1)


def host_cuts(case, lengths, tiling):
    """What plan_decode writes for CPU tensors, of which it looks at the lengths only."""
    call = made_up.plan_call(case, (made_up.CPU, 0))
    lengths = lengths.astype(np.int32)
    call.tensors["cache_seqlens"].data = lengths.ctypes.data
    _, size = call.size()
    buffer = aligned_bytes(size)
    call.fields |= {"buffer": buffer.ctypes.data, "buffer_size": size}
    assert call.run(c_abi.new_plan()) == 0, c_abi.last_error()
    return schedule.read(buffer, tiling, case.batch)


@pytest.mark.parametrize("num_splits", [0, 1, 3, 32, 1024])
@pytest.mark.parametrize("spread", ["equal", "random", "one long"])
def test_cuts_are_those_of_the_host_scheduler(num_splits, spread):
    draw = np.random.default_rng((num_splits, len(spread)))
    for _ in range(60 if num_splits == 0 else 5):
        batch, s_q, max_blocks = int(draw.integers(1, 40)), int(draw.integers(1, 4)), int(draw.integers(1024, 3000))
        lengths = draw.integers(-3, 64 * max_blocks + 100, batch)
        if spread == "equal":
            lengths[:] = lengths[0]
        elif spread == "one long":
            lengths[1:] %= 70
        extents = {"s_q": s_q, "h_q": 256, "h_kv": int(draw.choice([1, 2])), "max_blocks": max_blocks}
        tiling = schedule.tile(CPU, batch=batch, **extents, num_splits=num_splits)
        case = Case(**extents, lengths=tuple(map(int, lengths)), num_splits=num_splits)
        found_cuts, found_costs = host_cuts(case, lengths, tiling)
        cuts, costs = schedule.cuts(CPU, tiling, schedule.pages(lengths, max_blocks, 64), num_splits)
        np.testing.assert_array_equal(found_cuts, cuts)
        np.testing.assert_array_equal(found_costs, costs)
