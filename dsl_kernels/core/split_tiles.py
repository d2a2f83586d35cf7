"""Which tiles were split, whose partial results are joined, and in which parts their pieces are. `kernel`: the kernel
that joins them, with its lists in shared memory.
"""

import cutlass.cute as cute
from cutlass import Boolean, Int32, min

from . import schedule
from .schedule_params import MAX_SPLITS
from .threads import warp_reduce


@cute.jit
def find(kernel, base, tid):
    """Of the parts from base on, those that begin a tile they do not end, in order; returns how many."""
    a, here = kernel.a, base + tid < kernel.a.num_parts
    sBegins, sEnds, sTiles = kernel.sBegins, kernel.sEnds, kernel.sTiles
    sQueries, sTokens = kernel.sQueries, kernel.sTokens
    part = min(base + tid, a.num_parts - 1)
    first, unit, last, last_unit = schedule.edges(a, part)
    begins_here = (first != last) or (unit == 0)
    begins = here and begins_here and (last_unit > 0) and (last < a.num_tiles)
    ends = here and (unit > 0) and (first < a.num_tiles) and (first != last)
    votes = cute.arch.vote_ballot_sync(begins)
    warp, lane = tid // 32, tid % 32
    kernel.sFound[warp] = cute.arch.popc(votes)
    cute.arch.sync_threads()
    found = kernel.sFound[lane] if lane < kernel.threads // 32 else Int32(0)
    before = warp_reduce(found if lane < warp else Int32(0), lambda x, y: x + y)
    before += cute.arch.popc(votes & ((1 << lane) - 1))
    if begins:
        sBegins[before], sTiles[before] = part, last
        if schedule.by_request(a):
            request, _, _ = schedule.locate_tile(a, last)
            query, tokens = schedule.query_range(a, request)
            sQueries[before], sTokens[before] = query, tokens
    if ends and (before > 0):
        sEnds[before - 1] = part
    total = warp_reduce(found, lambda x, y: x + y)
    cute.arch.sync_threads()
    return total


@cute.jit
def query_range(kernel, i):
    """Of the request of the i-th split tile, see schedule.query_range: what was read for all threads at once. They must
    agree on which rows there are, since a CTA merges a row together.
    """
    query, tokens = Int32(0), kernel.a.s_q
    if schedule.by_request(kernel.a):
        query, tokens = kernel.sQueries[i], kernel.sTokens[i]
    return query, tokens


@cute.jit
def count_pieces(a, part, tile, lane):
    """One warp: number of parts, from `part` on, that work on a tile; of cuts that are read."""
    count, more = Int32(1), Boolean(True)
    while more:
        candidate = part + count + lane
        begun = schedule.element(a.cuts, 2 * min(candidate, a.num_parts - 1))
        here = (candidate < a.num_parts) and (begun == tile)
        found = cute.arch.popc(cute.arch.vote_ballot_sync(here))
        count += found
        more = found == 32
    return min(count, MAX_SPLITS)
