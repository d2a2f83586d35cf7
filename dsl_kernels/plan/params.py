"""Parameters of plan: see core/params.py."""

from dsl_kernels.core import schedule_params as shared
from dsl_kernels.core.params import Param

CONSTANTS = shared.CONSTANTS

PARAMS = (
    *shared.LENGTHS,
    *shared.EXTRA_LENGTHS,
    shared.WINDOW,
    shared.CUTS,
    shared.FIRST_SLOT,
    Param("cost_before", "int64_t*", "scratch: batch + 1 prefix sums of the cost", 8),
    *shared.QUERIES,
    *shared.TILING,
    *shared.DIVISORS,
    Param("bands", "int32_t", "columns that are cut alike, all of them; or 1"),
    Param("num_splits", "int32_t", "0, or parts of every tile"),
    Param(
        "pieces_apart",
        "int32_t",
        "pieces of a tile's items of each kind, which are attended by launches of their own; or 0",
    ),
    shared.PIECE_UNITS,
    Param("piece_overhead", "int32_t", "batch invariant: cost of ending a piece, units"),
    Param("by_small_piece", "int64_t", "divides by what a piece of a quantum costs"),
    Param("by_large_piece", "int64_t", "divides by what a piece of two costs"),
    Param("slots", "int32_t", "batch invariant: partial slots in all"),
    Param("whole_units", "int32_t", "a tile of at most so many units is not split"),
    Param("start_overhead", "int32_t", "cost of beginning a tile, units"),
    Param("split_overhead", "int32_t", "extra cost of a split work list, units"),
)
