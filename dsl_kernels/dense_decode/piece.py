"""A piece of work as the roles see it: how many units, and how far the rows of their CTA attend."""

import cutlass
import cutlass.cute as cute

from dsl_kernels.core import attended, schedule
from dsl_kernels.core.schedule_params import UNIT


@cute.jit
def open_piece(a, part, tile, cluster, rank, limit: cutlass.Constexpr):
    """The piece of a tile in a part: (tokens from its begin on that a row of block `rank` of the tile attends, units).
    `limit` says which row: first_limit or last_limit.
    """
    request, _, tile_of_head = schedule.locate_tile(a, tile)
    _, count = schedule.query_range(a, request)
    length = attended.length_of(a, request)
    units = attended.tile_units(a, request, length, count, tile_of_head, cluster)
    begin, end = schedule.piece_units(a, part, tile, units)
    return limit(a, request, length, count, tile_of_head * cluster + rank) - begin * UNIT, end - begin
