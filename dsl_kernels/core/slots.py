"""Slots of batch-invariant calls: where the rows of a block lie in them, and how many there are.

Rows lie as the threads of dense_decode's PV warpgroups hold them, float32: for each CTA of the cluster, half of the
columns and stripe of rows [block of 8 columns][lane] four values, two of each of the lane's two rows. So a thread reads
what it wrote, and a warp whole lines. A row's log-sum-exp stands among its facts, for each half once.
"""

import cutlass.cute as cute
from cutlass import Int64

from .schedule_params import FACT_LEFT, FACTS, STRIPE

BLOCK = 8 * STRIPE  # values of a block of columns


@cute.jit
def rows_of(a):
    """Of a block in a slot: the stripes in which a row can be one of its own; others are neither stored nor read."""
    return (a.block_heads * a.block_tokens + (STRIPE - 1)) & -STRIPE


@cute.jit
def locate(a, block, half, row, lane, d_v):
    """Of a stripe that begins at a row of a block, slot * cluster + rank: address of a lane's values of a half's first
    block of columns, whose next is 4 * BLOCK bytes behind; and of the fact of the stripe's first row.
    """
    rows = rows_of(a)
    first = block * rows  # below 2^27: MAX_SLOTS, two CTAs
    values = Int64(first) * d_v + ((rows * half + row) * (d_v // 2) + 4 * lane)
    fact = (first + row) * FACTS + FACT_LEFT + half
    return a.partial.toint() + 4 * values, a.partial_facts.toint() + 4 * Int64(fact)
