"""QK of batch-invariant calls: the pieces of a tile share a Q, and PV folds what it is told at the end of each."""

import cutlass.cute as cute
from cutlass import const_expr

from dsl_kernels.core.threads import thread_now

from . import invariant, work
from .carries import finish_piece
from .qk import QK


class InvariantQK(QK):
    def start(self, _slot, _phase, _warp):
        """The first Q is as any."""

    def started(self):
        pass

    @cute.jit
    def has_own_q(self, record):
        return not invariant.has(self.smem.sWork[work.TOKENS, record], invariant.SAME_Q)

    @cute.jit
    def go(self, slot, warp):
        if const_expr(self.kernel.regs_qk <= self.kernel.regs_at_entry):  # none is left that knows the warp
            warp = thread_now() >> 5
        if warp == 0:
            self.bars.arrive(self.bars.go(slot))

    @cute.jit
    def took_q(self, slot, phase, warp):
        """Its barriers tell nobody anything."""
        self.bars.arrive_quads(self.bars.p_full(slot))
        self.go(slot, warp)
        cute.arch.mbarrier_wait(self.bars.p_full(slot), phase)

    @cute.jit
    def finish(self, _record, row_max: cute.Tensor, row_sum: cute.Tensor, slot, phase, _warp):
        """Says the end of a piece. Log-sum-exps go into the scales of the item behind the next."""
        ahead, parity = self.bars.step(slot, phase)
        self.wait_until_left(ahead, parity)
        sScale = self.smem.sScale
        finish_piece(self.kernel, row_max, row_sum, sScale[None, slot], sScale[None, ahead])
        self.bars.say_sums()
