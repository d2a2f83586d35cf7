"""Pieces of batch-invariant schedules: where they begin, in quanta of piece_units, and what is stored at which level.
See fm_cut of the C core.
"""

import cutlass.cute as cute
from cutlass import max, min

from . import schedule
from .schedule_params import LOG_NODE_PIECES, SMALL_PIECES

LEVELS = 3  # what a cut tile stores: pieces; nodes of so many pieces; nothing, since no tile is cut


def piece_begin(j):
    """Quantum at which piece j begins."""
    return j + max(j - SMALL_PIECES, 0)


def piece_at(quantum):
    """The piece that a quantum is of."""
    return min(quantum, (quantum + SMALL_PIECES) >> 1)


def pieces_of(quanta):
    """Pieces of so many quanta."""
    return min(quanta, (quanta + (SMALL_PIECES + 1)) >> 1)


def item_shift(level):
    """log2 of the pieces of an item; at the last level a whole tile is one."""
    return LOG_NODE_PIECES * level + (30 - LOG_NODE_PIECES * (LEVELS - 1)) * (level >> 1)


def items_between(begin, end, shift):
    """Items of the quanta from `begin`, where one begins, to `end`."""
    return ((pieces_of(end) + ((1 << shift) - 1)) >> shift) - (piece_at(begin) >> shift)


@cute.jit
def pieces_for(a, cost):
    """How many pieces of a tile cost so much at most, but for start_overhead."""
    small = SMALL_PIECES * (a.piece_units + a.piece_overhead)
    of_small = schedule.divide(min(cost, small), a.by_small_piece)
    return of_small + schedule.divide(max(cost - small, 0), a.by_large_piece)


@cute.jit
def cost_before_piece(a, piece):
    """Of a tile's pieces before one, but for start_overhead."""
    return piece_begin(piece) * a.piece_units + piece * a.piece_overhead
