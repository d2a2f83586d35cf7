"""Cuts of tiles whose items of two kinds are attended by launches of their own: fm_cut of the C core."""

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64, max, min

from dsl_kernels.core import attended, schedule


@cute.jit
def cut_apart(a, cuts: cute.Tensor, tid, threads: cutlass.Constexpr):
    """The cuts of all pieces, which those who merge them look at; then those of the launches of both kinds."""
    pieces, parts = a.pieces_apart, a.num_parts // 2
    for part in cutlass.range(tid, a.num_parts, threads, unroll=1):
        tile = part // (2 * pieces)
        cuts[2 * part], cuts[2 * part + 1] = tile, part - tile * 2 * pieces
    kinds = ((a.capacity, a.lengths), (a.extra_capacity, a.extra_lengths))
    for kind in cutlass.range_constexpr(2):
        begin = 2 * (a.num_parts + 1 + kind * (parts + 1))
        for part in cutlass.range(tid, parts + 1, threads, unroll=1):
            tile, unit = part // pieces, Int32(0)
            if part < parts:
                request, _, _ = schedule.locate_tile(a, tile)
                unit = unit_of(a, request, part - tile * pieces, *kinds[kind])
            cuts[begin + 2 * part], cuts[begin + 2 * part + 1] = tile, unit


@cute.jit
def unit_of(a, request, piece, capacity, lengths):
    """Where a piece begins, of pieces of equal size. Empty ones are attended too, since all are merged: so none begins
    where the next one does.
    """
    items = capacity
    if schedule.given(lengths):
        items = min(max(schedule.element(lengths, request), 0), capacity)
    units = max(attended.units_of(items), a.pieces_apart)
    return Int32(Int64(piece) * Int64(units) // Int64(a.pieces_apart))
