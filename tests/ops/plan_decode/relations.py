"""What tests of schedules share."""

from __future__ import annotations

import numpy as np

import c_abi
import schedule
import shape_only
from buffers import aligned_bytes
from ops.dense_decode.case import Case
from ops.dense_decode.shape_only import plan_call

CPU = schedule.cpu()
# Long requests of many query rows, of which few give as many pieces as there is room for.
LEVELS = Case(h_q=128, max_blocks=1 << 10, lengths=(1 << 16,) * 4, batch_invariant=True)
RAGGED = LEVELS.but(lengths=(1 << 16, 40_000, 3_000, 60_001, 5_000, 20_000))


def host_schedule(case: Case, tiling: schedule.Tiling) -> schedule.Schedule:
    """What plan_decode writes for CPU tensors, of which it looks at lengths and offsets only."""
    call = plan_call(case, (shape_only.CPU, 0))
    lengths, offsets = (np.array(values, np.int32) for values in (case.lengths, case.cu_seqlens_q or ()))
    call.tensors["cache_seqlens"].data = lengths.ctypes.data
    if case.cu_seqlens_q is not None:
        call.tensors["cu_seqlens_q"].data = offsets.ctypes.data
    _, size = call.size()
    buffer = aligned_bytes(size)
    call.fields |= {"buffer": buffer.ctypes.data, "buffer_size": size}
    assert call.run(c_abi.new_plan()) == 0, c_abi.last_error()
    return schedule.read(buffer, tiling, case.batch)


def check_host_schedule(case: Case, _=None) -> schedule.Schedule:
    """The host's schedule of a case that has the limits of schedule.cpu() is that of the definition."""
    varlen = case.cu_seqlens_q is not None
    extents = {name: getattr(case, name) for name in ("batch", "h_q", "h_kv", "max_blocks", "page_size", "num_splits")}
    extents |= {"s_q": case.most_queries, "varlen": varlen, "total_q": case.total_q}
    tiling = schedule.tile(CPU, **extents, batch_invariant=case.batch_invariant)
    tokens = schedule.query_tokens(case.cu_seqlens_q, case.total_q, case.s_q) if varlen else None
    found = host_schedule(case, tiling)
    schedule.same(found, schedule.schedule(CPU, tiling, schedule.units(CPU, case.lengths, case.capacity), tokens))
    return found
