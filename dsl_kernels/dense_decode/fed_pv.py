"""PV where a warpgroup of its own fetches the rows (producer.py). What came as codes the eight warps of PV make into
numbers (made_codes.py) beside the product that runs then or behind it: of the unit behind the next one, so that QK has
it when it is done with that.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Int32, const_expr
from cutlass.cute.nvgpu import warpgroup

from dsl_kernels.core.fragments import row_of
from dsl_kernels.core.threads import thread_now

from . import work
from .pv import PV
from .rows import see_rows


class FedPV(PV):
    def __init__(self, kernel):
        super().__init__(kernel, None)
        self.rows = kernel.rows

    @cute.jit
    def run(self, half, warp):
        sWork = self.smem.sWork
        self.make_fragments()
        it, piece = Int32(0), Int32(0)
        # of item `it`, and of the item before, whose slot the item after next has
        slot, phase, before, parity = Int32(0), Int32(0), Int32(self.kernel.slots - 1), Int32(1)
        n = sWork[work.UNITS, self.bars.wait_for_work(piece)]
        while n > 0:
            self.make_ahead(half, warp, it, n)
            it += 1  # nothing to do for Q
            before, parity = slot, phase
            slot, phase = self.bars.step(slot, phase)
            self.rO.fill(0.0)
            while n > 0:
                self.start_unit(half, it, (slot, phase), row_of(thread_now()), self.remaining(it, n))
                self.end_unit(half, warp, slot, (before, parity ^ 1), piece, n)
                n -= 1
                it += 1
                before, parity = slot, phase
                slot, phase = self.bars.step(slot, phase)
            record, _ = self.bars.record_phase(piece)
            inverse = self.take_sums(it, row_of(thread_now()))
            cute.arch.sync_warp()
            self.bars.arrive_in_all(self.bars.sum_empty())
            if const_expr(self.kernel.cluster > 1):  # rows are staged where the last unit's copies were read
                cute.arch.mbarrier_wait(self.bars.sum_empty(), piece & 1)
            self.store_output(half, it, record, inverse)
            piece += 1
            n = sWork[work.UNITS, self.bars.wait_for_work(piece)]

    @cute.jit
    def make_ahead(self, half, warp, it, n):
        """Makes what no product runs beside: of the first piece two units, else the second one."""
        if const_expr(not self.rows.COPIES_ARRIVE):
            begin, end = it + 2, it + 2
            if it == 0:
                begin = Int32(1)
            if n > 1:
                end += 1
            for item in cutlass.range(begin, end, unroll=1):
                self.make(half, warp, self.bars.slot_phase(item), 0)

    @cute.jit
    def make(self, half, warp, position: tuple, begin):
        """Makes numbers of this warp's fours of an item, from `begin` on, when its rows have come; says so. position:
        slot and phase of the item.
        """
        slot, phase = position
        cute.arch.mbarrier_wait(self.bars.fetched(slot), phase)
        self.rows.make(half, slot, warp % 4, begin, self.rows.fours)
        cute.arch.fence_proxy("async.shared", space="cta")
        if const_expr(self.kernel.cluster > 1):
            self.bars.wait_until_empty(slot, half, phase)
            self.rows.share(half, slot, warp % 4)
        cute.arch.mbarrier_arrive(self.bars.full(slot))

    @cute.jit
    def follows(self, piece, n):
        """Whether the item after next is a unit, of one behind which n - 1 follow."""
        follows = n > 2
        if n == 1:  # the next piece; by n, or its record's place were worked out in advance and kept
            follows = self.smem.sWork[work.UNITS, self.bars.wait_for_work(piece + n)] > 0
        return follows

    @cute.jit
    def end_unit(self, half, warp, slot, behind: tuple, piece, n):
        """Waits for the product of a unit, behind which n - 1 follow, and gives its slot back at once; makes what comes
        two items later (behind: slot and phase of that), if it is a unit: half of it beside the product where its
        rows are there and no other CTA waits for the product's end, which that delays.
        """
        if const_expr(self.rows.COPIES_ARRIVE):
            warpgroup.wait_group(0)
            if n > 1:
                self.bars.release(slot, half)
        else:
            follows, begin = self.follows(piece, n), Int32(0)
            if const_expr(self.kernel.cluster == 1):
                ahead, parity = behind
                here = follows and cute.arch.mbarrier_test_wait(self.bars.fetched(ahead), parity)
                if cute.arch.vote_all_sync(here):
                    self.rows.make(half, ahead, warp % 4, 0, 1)
                    begin = Int32(1)
            warpgroup.wait_group(0)
            if n > 1:
                self.bars.release(slot, half)
            if follows:
                self.make(half, warp, behind, begin)

    def see_rows(self):
        see_rows(self.kernel)
