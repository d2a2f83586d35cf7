"""The barriers of sparse_decode: those of dense_decode where rows are gathered, but that it is told which are attended.

Standard library only.
"""

from __future__ import annotations

import dataclasses

from dsl_kernels.dense_decode.barrier_table import Barrier, gathering

# Where the copies themselves say for a thread that rows have come (those that need no conversion), nothing that the
# thread wrote is told with them: those that write which rows are attended say so for themselves, one thread a warp of
# the left half.
WRITERS = 4


def barriers(copies_arrive: bool) -> tuple[Barrier, ...]:
    """copies_arrive: whether the copies say for each thread that its rows have come."""
    full, *others = gathering()
    if copies_arrive:
        arrive = f"{full.arrive}; and the writers of which rows are attended"
        full = dataclasses.replace(full, arrivals=full.arrivals + WRITERS, arrive=arrive)
    return (full, *others)
