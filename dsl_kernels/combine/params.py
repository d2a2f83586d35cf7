"""Parameters of combine: see core/params.py."""

from dsl_kernels.core import schedule_params as shared
from dsl_kernels.core.params import Param

CONSTANTS = shared.CONSTANTS | {"MAX_SPLITS": shared.MAX_SPLITS}

PARAMS = (
    shared.CUTS,
    shared.PARTIAL,
    shared.PARTIAL_FACTS,
    *shared.OUTPUT,
    *shared.QUERIES,
    *shared.TILING,
    *shared.DIVISORS,
    Param("by_block_rows", "int64_t", "divides by the rows of a block: block_heads * block_tokens"),
    Param("by_tile_rows", "int64_t", "divides by the rows of a tile"),
    *shared.KNOWN_CUTS,
    shared.SLOTS,
    Param("rows_of_blocks", "int32_t", "at most so many rows a CTA merges each; of more a warp, piece by piece"),
)
