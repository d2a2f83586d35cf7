"""The barriers of sparse_decode: those of dense_decode, but that every thread of PV says that an item has come.

Standard library only.
"""

from __future__ import annotations

import dataclasses

from dsl_kernels.dense_decode.barrier_table import BARRIERS, Barrier

THREADS = 256  # of PV
# Where the copies themselves say it for a thread (rows that need no conversion), nothing that the thread wrote is told
# with them: those that write which rows are attended say so for themselves, one thread a warp of the left half.
WRITERS = 4


def barriers(copies_arrive: bool) -> tuple[Barrier, ...]:
    """copies_arrive: whether the copies say for each thread that its rows have come."""
    arrivals = THREADS + WRITERS * copies_arrive
    arrive = "every thread of PV, of its copies or with what it has made of them"
    arrive += "; and the writers of which rows are attended" * copies_arrive
    return tuple(
        dataclasses.replace(barrier, arrivals=arrivals, arrive=arrive) if barrier.name == "full" else barrier
        for barrier in BARRIERS
    )
