"""Which tiles combine merges: those that were split, and in which parts their pieces are. `k`: the kernel."""

import cutlass.cute as cute
from cutlass import Boolean, Int32, min

from dsl_kernels.params import MAX_SPLITS

from . import schedule
from .warp import warp_reduce


@cute.jit
def find(k, base, tid):
    """Of the parts from base on, those that begin a tile they do not end, in order; returns how many."""
    a, v = k.a, base + tid
    sBegins, sEnds, sTiles = k.sBegins, k.sEnds, k.sTiles
    w = min(v, a.num_parts - 1)
    t, unit = schedule.cut(a, w, 0), schedule.cut(a, w, 1)
    last, last_unit = schedule.cut(a, w + 1, 0), schedule.cut(a, w + 1, 1)
    begins_here = (t != last) or (unit == 0)
    begins = (v < a.num_parts) and begins_here and (last_unit > 0) and (last < a.num_tiles)
    ends = (v < a.num_parts) and (unit > 0) and (t < a.num_tiles) and (t != last)
    votes = cute.arch.vote_ballot_sync(begins)
    warp, lane = tid // 32, tid % 32
    k.sFound[warp] = cute.arch.popc(votes)
    cute.arch.sync_threads()
    found = k.sFound[lane] if lane < k.threads // 32 else Int32(0)
    before = warp_reduce(found if lane < warp else Int32(0), lambda x, y: x + y)
    before += cute.arch.popc(votes & ((1 << lane) - 1))
    if begins:
        sBegins[before], sTiles[before] = w, last
    if ends and (before > 0):
        sEnds[before - 1] = w
    total = warp_reduce(found, lambda x, y: x + y)
    cute.arch.sync_threads()
    return total


@cute.jit
def count_pieces(a, w, t, lane):
    """One warp: number of parts, from w on, that work on tile t."""
    count, more = Int32(1), Boolean(True)
    while more:
        v = w + count + lane
        here = (v < a.num_parts) and (schedule.cut(a, min(v, a.num_parts - 1), 0) == t)
        found = cute.arch.popc(cute.arch.vote_ballot_sync(here))
        count += found
        more = found == 32
    return min(count, MAX_SPLITS)
