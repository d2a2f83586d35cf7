"""PV on the tensor cores' 8-bit products: O += P V of codes, of which V's lie turned round (turned.py). A unit is
turned beside the product of the one before it.
"""

import cutlass
import cutlass.cute as cute
import cutlass.utils.hopper_helpers as sm90
from cutlass import Boolean, Float8E4M3FN, Float32, Int32
from cutlass.cute.nvgpu import OperandMajorMode, warpgroup

from dsl_kernels.core.fragments import accumulator_rows, gemm, row_of
from dsl_kernels.core.schedule_params import UNIT
from dsl_kernels.core.threads import thread_now

from . import work
from .code_qk import P_STEP, STEP
from .gather import PIECE_DONE, piece_of
from .gather_pv import GatherPV
from .loader import Q_ITEM
from .masking import before_windows, shared_remaining
from .turned import clear_turned

AT_ONCE = 4  # 32 columns of V that a warp turns together


class CodePV(GatherPV):
    @cute.jit
    def run(self, half, warp):
        kernel, sWork = self.kernel, self.smem.sWork
        self.publish_first(half, warp)
        self.make_fragments()
        at, unit, index = Int32(0), Int32(Q_ITEM), Int32(0)  # the loader's cursor: gather.py
        it, more = Int32(0), Boolean(True)  # items
        while more:
            if it > 0:  # the rows of the piece before lay where copies do
                self.await_other_warps(half, it - 1)
            # as in gather_pv.py
            for item in cutlass.range(it if it == 0 else it + (kernel.slots - 1), it + (kernel.slots + 1), unroll=1):
                at, unit, index = self.loader.fetch(half, warp, item, at, unit, index)
            record = self.bars.wait_for_work(piece_of(at))
            n = sWork[work.UNITS, record]
            more = n > 0
            if more:
                it += 1  # nothing to do for Q
                self.turn(half, warp, it)
                self.rO.fill(0.0)
                follows = Boolean(False)
                while n > 0:
                    self.start_product(half, it, row_of(thread_now()), self.remaining(at, n))
                    # beside the product
                    if follows:
                        self.await_other_warps(half, it - 1)  # the next unit has the same copy
                        at, unit, index = self.loader.fetch(half, warp, it - 1 + kernel.slots, at, unit, index)
                    if n > 1:
                        self.turn(half, warp, it + 1)
                    warpgroup.wait_group(0)
                    n -= 1
                    follows = Boolean(True)
                    if n > 0:
                        slot, _ = self.bars.slot_phase(it)
                        self.bars.release(slot, half)
                    it += 1
                record, _ = self.bars.record_phase(piece_of(at))
                inverse = self.take_sums(it, row_of(thread_now()))
                cute.arch.sync_warp()
                self.bars.arrive(self.bars.sum_empty())
                self.store_output(half, it, record, inverse)
                at += PIECE_DONE

    def make_fragments(self):
        kernel, codes = self.kernel, Float8E4M3FN
        majors = OperandMajorMode.K, OperandMajorMode.K
        self.mma = sm90.make_trivial_tiled_mma(codes, codes, *majors, Float32, (1, 1, 1), (64, kernel.half))
        tid, _, _ = cute.arch.thread_idx()
        thr = self.mma.get_slice(tid % 128)
        self.rV = thr.make_fragment_B(thr.partition_B(self.smem.sTurned))  # (MMA, 1, 2, copies)
        self.rP = thr.make_fragment_A(thr.partition_A(self.smem.sCodes))  # (MMA, 1, 4, slices * slots)
        self.rO = cute.make_rmem_tensor(thr.partition_shape_C((64, kernel.half)), Float32)

    @cute.jit
    def await_other_warps(self, half, item):
        """Until all warps of this half are done with an item. Who has not waited has not fetched what comes next into
        the slot, so that QK could not give it back again.
        """
        slot, phase = self.bars.slot_phase(item)
        cute.arch.mbarrier_wait(self.bars.empty(slot, half), phase)

    @cute.jit
    def turn(self, half, warp, item):
        """This warp's tokens of a unit."""
        slot, phase = self.bars.slot_phase(item)
        cute.arch.mbarrier_wait(self.bars.raw(slot, half), phase)
        rows, columns = self.kernel.rows, self.kernel.half // 32
        places = rows.places(half, slot, item, self.loader.quarter(warp))
        for begin in cutlass.range_constexpr(0, columns, AT_ONCE):
            rows.turn(places, begin, begin + AT_ONCE)
        cute.arch.fence_proxy("async.shared", space="cta")
        cute.arch.mbarrier_arrive(self.bars.full(slot))

    @cute.jit
    def start_product(self, half, it, row, remaining):
        kernel, sScale, o_rows = self.kernel, self.smem.sScale, accumulator_rows(self.rO)
        slot, phase = self.bars.slot_phase(it)
        cute.arch.mbarrier_wait(self.bars.p_full(slot), phase)
        scale0, scale1 = sScale[row, slot], sScale[row + 8, slot]
        if cute.arch.vote_any_sync(scale0 * scale1 != 1.0):
            o_rows[0, None].store(o_rows[0, None].load() * scale0)
            o_rows[1, None].store(o_rows[1, None].load() * scale1)
        cute.arch.mbarrier_wait(self.bars.full(slot), phase)
        if (shared_remaining(self.a, remaining) < UNIT) or (before_windows(self.a, remaining) > 0):
            clear_turned(kernel, half, it)
        warpgroup.fence()
        rP = self.rP[None, None, None, kernel.slices * slot + kernel.last]
        rV = self.rV[None, None, None, self.smem.copy_of(half, it)]
        gemm(self.mma, self.rO, rP, rV, (P_STEP, P_STEP + UNIT // STEP), False, -P_STEP)
        warpgroup.commit_group()

    def stage(self, half, _slot):
        """The copies of this half."""
        return self.smem.copy_start(half, 0)
