"""The two PV warpgroups of dense_decode: O += P V, each for half of V's columns; rows to memory at a tile's end.

The first warp of each is also the loader of its half (loader.py).
"""

import cutlass.cute as cute
import cutlass.utils.hopper_helpers as sm90
from cutlass import Boolean, Float32, Int32, const_expr
from cutlass.cute.nvgpu import OperandMajorMode, warpgroup

from dsl_kernels.core.fragments import accumulator_rows, gemm, row_of, transposed
from dsl_kernels.core.schedule_params import UNIT

from . import work
from .epilogue import store_rows
from .masking import before_windows, clear_rows, shared_remaining


class PV:
    def __init__(self, kernel, loader):
        self.kernel, self.a, self.bars, self.smem, self.loader = kernel, kernel.a, kernel.bars, kernel.smem, loader

    @cute.jit
    def run(self, half, warp):
        """All pieces, as the records say, for the left (0) or the right (1) half of the columns."""
        kernel, sWork = self.kernel, self.smem.sWork
        loads = (warp % 4) == 0  # this warp is the loader too
        # that is fetched next: item, number of its piece, number of its page
        item, its_piece, page = Int32(0), Int32(0), Int32(0)
        if loads:
            self.loader.start(half)
        self.publish_first(half, warp)
        self.make_fragments()
        it, piece, more = Int32(0), Int32(0), Boolean(True)  # items, pieces
        while more:
            if loads:  # of the first tile all that there is room for, else into the slot of the last unit; and of Q
                item, its_piece, page = self.loader.fetch_all(half, item, it + kernel.slots + 1, its_piece, page)
            record = self.bars.wait_for_work(piece)
            n = sWork[work.UNITS, record]
            more = n > 0
            if more:
                remaining = work.last_remaining(kernel, record)
                it += 1  # nothing to do for Q
                self.rO.fill(0.0)
                while n > 0:
                    self.add_unit(half, it, self.row, remaining)
                    remaining -= UNIT
                    n -= 1
                    if n > 0:
                        slot, _ = self.bars.slot_phase(it)
                        self.bars.release(slot, half)
                        if loads:
                            its_piece, page = self.loader.fetch(half, item, its_piece, page)
                            item += 1
                    it += 1
                inverse = self.take_sums(it, self.row)
                cute.arch.sync_warp()
                cute.arch.mbarrier_arrive(self.bars.sum_empty())
                self.store_output(half, it, record, inverse)
                piece += 1

    @cute.jit
    def publish_first(self, half, warp):
        """The first record, by the warp beside the reader."""
        if (warp % 4 == 1) and self.loader.reads(half):
            self.loader.reader.publish_first()

    def make_fragments(self):
        kernel = self.kernel
        majors = OperandMajorMode.K, OperandMajorMode.MN
        # 512 threads begin with too few registers for an accumulator of 256 columns.
        columns = kernel.half // 2 if kernel.regs_producer else kernel.half
        self.mma = sm90.make_trivial_tiled_mma(kernel.dtype, kernel.dtype, *majors, Float32, (1, 1, 1), (64, columns))
        tid, _, _ = cute.arch.thread_idx()
        thr = self.mma.get_slice(tid % 128)
        sV = cute.local_tile(transposed(self.smem.sK), (kernel.half, 64), (None, 0, None))
        self.rV = thr.make_fragment_B(thr.partition_B(sV))  # (MMA, columns of an accumulator, 4, halves, slots)
        self.rP = thr.make_fragment_A(thr.partition_A(self.smem.sS))
        self.rO = cute.make_rmem_tensor(thr.partition_shape_C((64, kernel.half)), Float32)
        self.row = row_of(tid % 128)

    @cute.jit
    def add_unit(self, half, it, row, remaining):
        """O += P V of a unit, from whose begin on `remaining` tokens remain for the block's last query token.
        `row`: the first of this thread's.
        """
        self.start_unit(half, it, self.bars.slot_phase(it), row, remaining)
        warpgroup.wait_group(0)

    @cute.jit
    def start_unit(self, half, it, position: tuple, row, remaining):
        """The same, but for the end of the product. position: slot and phase of the item."""
        sScale, o_rows, (slot, phase) = self.smem.sScale, accumulator_rows(self.rO), position
        cute.arch.mbarrier_wait(self.bars.full(slot), phase)
        self.see_rows()
        cute.arch.mbarrier_wait(self.bars.p_full(slot), phase)
        scale0, scale1 = sScale[row, slot], sScale[row + 8, slot]
        if cute.arch.vote_any_sync(scale0 * scale1 != 1.0):
            o_rows[0, None].store(o_rows[0, None].load() * scale0)
            o_rows[1, None].store(o_rows[1, None].load() * scale1)
        self.clear(half, slot, remaining)
        if const_expr(self.bars.go_apart):
            cute.arch.mbarrier_wait(self.bars.go(slot), phase)
        warpgroup.fence()
        rPs = self.rP[None, None, None, self.smem.last(it, slot)]
        gemm(self.mma, self.rO, rPs, self.rV[None, None, None, half, slot], (0, 4), False)
        warpgroup.commit_group()

    def see_rows(self):
        """What TMA brought the tensor cores see."""

    @cute.jit
    def clear(self, half, slot, remaining):
        """V rows that not every row of the block attends."""
        if (shared_remaining(self.a, remaining) < UNIT) or (before_windows(self.a, remaining) > 0):
            clear_rows(self.kernel, half, slot, remaining)

    @cute.jit
    def take_sums(self, it, row):
        """1 / row sum of this thread's rows, when QK has said the end of the piece. `it`: the next Q."""
        slot, phase = self.bars.slot_phase(it)
        cute.arch.mbarrier_wait(self.bars.p_full(slot), phase)
        return self.smem.sScale[row, slot], self.smem.sScale[row + 8, slot]

    def stage(self, half, slot):
        """Room for 64 rows of this half."""
        return self.smem.slice_start(slot, self.kernel.half_slices * half)

    @cute.jit
    def store_output(self, half, it, record, factors: tuple):
        """The rows, times `factors`, to memory. They are turned round in this half of the last unit's slot, once every
        warp's product is done, and only then is it given back.
        """
        kernel = self.kernel
        self.bars.sync_half(half)
        slot, _ = self.bars.slot_phase(it + (kernel.slots - 1))
        store_rows(kernel, record, half, accumulator_rows(self.rO), factors, self.stage(half, slot))
        cute.arch.fence_proxy("async.shared", space="cta")
        self.bars.release(slot, half)
