"""Parameters of fold: see core/params.py."""

from dsl_kernels.core import schedule_params as shared

from .config import BLOCKS_PER_SM

CONSTANTS = shared.CONSTANTS | {"FOLD_BLOCKS": BLOCKS_PER_SM}

PARAMS = (
    shared.LENGTHS[1],  # capacity
    shared.CUTS,
    shared.PARTIAL,
    shared.PARTIAL_FACTS,
    *shared.OUTPUT,
    *shared.QUERIES,
    *shared.TILING,
    *shared.DIVISORS,
    *shared.INVARIANT,
)
