"""The barriers of sparse_decode: those of dense_decode where rows are gathered, but that it is told which are attended.

Standard library only.
"""

from __future__ import annotations

import dataclasses

from dsl_kernels.dense_decode.barrier_table import WRITERS, Barrier, gathering, producing


def barriers(
    copies_arrive: bool, produced: bool = False, turns: bool = False, paired: bool = False
) -> tuple[Barrier, ...]:
    """copies_arrive: whether the copies say for each thread that its rows have come; produced: whether a warpgroup of
    its own fetches them; turns: whether RoPE parts take turns in two slices; paired: whether two CTAs make rows for
    each other.
    """
    if produced:
        return producing(copies_arrive, turns, paired)
    full, *others = gathering()
    if copies_arrive:
        arrive = f"{full.arrive}; and the writers of which rows are attended"
        full = dataclasses.replace(full, arrivals=full.arrivals + WRITERS, arrive=arrive)
    return (full, *others)
