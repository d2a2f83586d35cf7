"""The producer and PV of a pair of CTAs, which make rows of codes for each other (paired_codes.py)."""

import cutlass.cute as cute
from cutlass import Int32
from cutlass.cute.nvgpu import warpgroup

from dsl_kernels.core.threads import lane_now

from .fed_pv import FedPV
from .paired_codes import STRETCH_BYTES
from .producer import Producer


class PairedProducer(Producer):
    @cute.jit
    def reads(self, warp):
        return (warp == 0) and (self.kernel.rank == 0)

    @cute.jit
    def row(self, warp, unit):
        return self.rows.row(warp, lane_now(unit))

    @cute.jit
    def start_rows(self, warp, item, attended, address, scales):
        """The same; what the other CTA makes of the unit is announced."""
        slot, _ = self.bars.slot_phase(item)
        if warp == 0:
            with cute.arch.elect_one():
                cute.arch.mbarrier_expect_tx(self.bars.full(slot), 2 * self.half_slices * STRETCH_BYTES)
        Producer.start_rows(self, warp, item, attended, address, scales)


class PairedPV(FedPV):
    @cute.jit
    def make(self, half, warp, item):
        slot, phase = self.bars.slot_phase(item)
        which = Int32(self.kernel.half_slices * half + warp % 4)
        cute.arch.mbarrier_wait(self.bars.fetched(slot), phase)
        if self.rows.makes(which):
            self.rows.make_slice(slot, which)
        cute.arch.fence_proxy("async.shared", space="cta")
        self.rows.share(slot, which)
        cute.arch.mbarrier_arrive(self.bars.full(slot))

    @cute.jit
    def end_unit(self, half, warp, it, piece, n):
        """As ever; but nothing is made beside the product, because that delays its end, for which two CTAs wait."""
        slot, _ = self.bars.slot_phase(it)
        follows = self.follows(piece, n)
        warpgroup.wait_group(0)
        if n > 1:
            self.bars.release(slot, half)
        if follows:
            self.make(half, warp, it + 2)
