"""The two PV warpgroups of dense_decode: O += P V, each for half of V's columns; rows to memory at a tile's end.

The first warp of each is also the loader of its half (loader.py).
"""

import cutlass.cute as cute
import cutlass.utils.hopper_helpers as sm90
from cutlass import Float32, Int32
from cutlass.cute.nvgpu import OperandMajorMode, warpgroup

from dsl_kernels.core import attended, schedule
from dsl_kernels.core.fragments import accumulator_rows, gemm, row_of, transposed
from dsl_kernels.core.schedule_params import UNIT

from .epilogue import store_rows
from .masking import clear_rows, shared_remaining
from .piece import open_piece


class PV:
    def __init__(self, kernel, loader):
        self.kernel, self.a, self.bars, self.smem, self.loader = kernel, kernel.a, kernel.bars, kernel.smem, loader

    @cute.jit
    def run(self, first, half, warp):
        """All pieces from part `first` on, for the left (0) or the right (1) half of the columns."""
        kernel, a, sScale, dt = self.kernel, self.a, self.smem.sScale, self.kernel.dtype
        loads = (warp % 4) == 0  # this warp is the loader too
        part, tile = schedule.seek(a, first, Int32(0), kernel.step, kernel.cluster)
        item, page = Int32(0), Int32(0)  # that is fetched next, and its page
        if loads:
            self.loader.start(half, part, tile)
        majors = OperandMajorMode.K, OperandMajorMode.MN
        mma = sm90.make_trivial_tiled_mma(dt, dt, *majors, Float32, (1, 1, 1), (64, kernel.half))
        tid, _, _ = cute.arch.thread_idx()
        tid %= 128
        thr = mma.get_slice(tid)
        sV = cute.local_tile(transposed(self.smem.sK), (kernel.half, 64), (None, 0, None))
        rV = thr.make_fragment_B(thr.partition_B(sV))  # (MMA, 1, 4, halves, slots)
        rP = thr.make_fragment_A(thr.partition_A(self.smem.sS))
        rO = cute.make_rmem_tensor(thr.partition_shape_C((64, kernel.half)), Float32)
        o_rows = accumulator_rows(rO)
        row = row_of(tid)
        it, units = Int32(0), Int32(0)  # items, and units among them; the difference counts tiles
        while part < a.num_parts:
            if loads:  # of the first tile all that there is room for, else into the slot of the last unit; and of Q
                item, page = self.loader.fetch_all(half, item, it + kernel.slots + 1, page)
            remaining, n = open_piece(a, part, tile, kernel.cluster, kernel.rank, attended.last_limit)
            it += 1  # nothing to do for Q
            rO.fill(0.0)
            some = n > 0
            while n > 0:
                slot, phase = self.bars.slot_phase(it)
                unit_slot, unit_phase = self.bars.slot_phase(units)
                cute.arch.mbarrier_wait(self.bars.p_full(unit_slot), unit_phase)
                scale0, scale1 = sScale[row, slot], sScale[row + 8, slot]
                if cute.arch.vote_any_sync(scale0 * scale1 != 1.0):
                    o_rows[0, None].store(o_rows[0, None].load() * scale0)
                    o_rows[1, None].store(o_rows[1, None].load() * scale1)
                cute.arch.mbarrier_wait(self.bars.full(slot), phase)
                if shared_remaining(a, remaining) < UNIT:
                    clear_rows(kernel, half, slot, remaining)
                remaining -= UNIT
                n -= 1
                cute.arch.mbarrier_wait(self.bars.qk_done(unit_slot), unit_phase)
                warpgroup.fence()
                rPs = rP[None, None, None, kernel.slices * slot + kernel.last]
                gemm(mma, rO, rPs, rV[None, None, None, half, slot], (0, 4), False)
                warpgroup.commit_group()
                warpgroup.wait_group(0)
                if n > 0:
                    self.bars.release(slot, half)
                    if loads:
                        page = self.loader.fetch(half, item, page)
                        item += 1
                it += 1
                units += 1
            parity = (it - units - 1) & 1
            cute.arch.mbarrier_wait(self.bars.sum_full(), parity)
            slot, _ = self.bars.slot_phase(it)
            inverse0, inverse1 = sScale[row, slot], sScale[row + 8, slot]
            cute.arch.sync_warp()
            self.bars.arrive(self.bars.sum_empty())
            # this half of the last unit's slot serves to turn rows round, once every warp's product is done, and only
            # then is given back
            self.bars.sync_half(half)
            slot, _ = self.bars.slot_phase(it + (kernel.slots - 1))
            stage = self.smem.slice_start(slot, kernel.half_slices * half)
            store_rows(kernel, parity, half, o_rows, (inverse0, inverse1), stage, some)
            if some:
                cute.arch.fence_proxy("async.shared", space="cta")
                self.bars.release(slot, half)
            part, tile = schedule.seek(a, part, tile + 1, kernel.step, kernel.cluster)
