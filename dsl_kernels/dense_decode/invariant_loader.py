"""Loader and reader of batch-invariant calls: a part goes on with a tile piece after piece, with the same Q."""

import cutlass.cute as cute
from cutlass import Int32

from dsl_kernels.core import schedule
from dsl_kernels.core.schedule_params import NODE_PIECES

from . import invariant, work
from .loader import Loader


class InvariantReader(work.Reader):
    FIRST = -1  # which piece of the tile that is the schedule says

    @cute.jit
    def next_piece(self, record, _number):
        kernel, a, sWork, number = self.kernel, self.a, self.smem.sWork, Int32(self.FIRST)
        part, tile = invariant.part_of(sWork[work.SLOT, record]), sWork[work.TILE, record]
        if invariant.has(sWork[work.SLOT, record], invariant.MORE):
            number = invariant.number_of(a, sWork[work.FIRST_UNIT, record])
            node_ends = invariant.has(sWork[work.TOKENS, record], invariant.NEXT_NODE)
            number = (number | (NODE_PIECES - 1) if node_ends else number) + 1
        else:
            part, tile = schedule.seek(a, part, tile + 1, kernel.step, kernel.blocks, kernel.lane_apart)
        return part, tile, number

    @cute.jit
    def planned(self, part, tile):
        return invariant.run_of(self.a, part, tile)

    @cute.jit
    def settled(self, planned: tuple, part, number, units):
        return invariant.describe(self.a, part, number, units, planned)


class InvariantLoader(Loader):
    """`number`: of a piece that is not the tile's first in the part, else FIRST; a loader that does not read only needs
    to know which of both, to tell whether Q is that of the piece before.
    """

    READER = InvariantReader

    @cute.jit
    def planned_unit(self, unit, number):
        if number >= 0:
            unit = invariant.begin_of(self.a, number)
        return unit

    @cute.jit
    def number_of(self, record, _number):
        same_q = invariant.has(self.smem.sWork[work.TOKENS, record], invariant.SAME_Q)
        return Int32(0) if same_q else Int32(InvariantReader.FIRST)

    def has_own_q(self, number):
        return number < 0
