"""The QK warpgroup of dense_decode: S = Q K^T of a unit, online softmax, P to shared memory; row sums at the end."""

import cutlass
import cutlass.cute as cute
import cutlass.utils.hopper_helpers as sm90
from cutlass import Boolean, Float32, Int32, const_expr
from cutlass.cute.nvgpu import OperandMajorMode, warpgroup

from dsl_kernels.core.fragments import accumulator_rows, gemm, row_of, store_p
from dsl_kernels.core.schedule_params import UNIT
from dsl_kernels.core.softmax import online_softmax
from dsl_kernels.core.threads import thread_now

from . import work
from .barriers import NamedBarrier
from .epilogue import finish_rows
from .masking import mask, mask_before_window


class QK:
    def __init__(self, kernel):
        self.kernel, self.a, self.bars, self.smem = kernel, kernel.a, kernel.bars, kernel.smem

    @cute.jit
    def run(self, warp):
        """All pieces, as the records say."""
        kernel, sScale, sWork, dt = self.kernel, self.smem.sScale, self.smem.sWork, self.kernel.dtype
        major, rmem = OperandMajorMode.K, warpgroup.OperandSource.RMEM
        mma_rs = sm90.make_trivial_tiled_mma(dt, dt, major, major, Float32, (1, 1, 1), (64, UNIT), rmem)
        mma_ss = sm90.make_trivial_tiled_mma(dt, dt, major, major, Float32, (1, 1, 1), (64, UNIT))
        tid, _, _ = cute.arch.thread_idx()
        thr_rs, thr_ss = mma_rs.get_slice(tid), mma_ss.get_slice(tid)
        rK = thr_rs.make_fragment_B(thr_rs.partition_B(cute.local_tile(self.smem.sK, (64, kernel.d_v), (0, 0, None))))
        rQ = cute.make_rmem_tensor(thr_rs.partition_shape_A((64, 16 * kernel.q_steps)), dt)
        if const_expr(kernel.q_tail > 0):
            rQtail = thr_ss.make_fragment_A(thr_ss.partition_A(self.smem.sQtail))
        if const_expr(kernel.rope):
            rKrope = thr_ss.make_fragment_B(thr_ss.partition_B(self.smem.sS))
            rQrope = thr_ss.make_fragment_A(thr_ss.partition_A(self.smem.sQrope))
        row_max = cute.make_rmem_tensor((2,), Float32)
        row_sum = cute.make_rmem_tensor((2,), Float32)
        it, piece = Int32(0), Int32(0)  # items, pieces
        slot, phase, before = Int32(0), Int32(0), Int32(0)  # of item `it`; the slot of the item before
        self.start(slot, phase, warp)
        record = self.bars.wait_for_work(piece)
        self.started()
        n = sWork[work.UNITS, record]
        if n == 0:
            self.await_unused()
        while n > 0:
            remaining = self.first_remaining(record)
            if self.has_own_q(record):
                cute.arch.mbarrier_wait(self.bars.full(slot), phase)
                self.say_came(slot, warp)
                self.take_q(it, slot, mma_rs, rQ, tid)
                self.bars.release(slot, 0)
                self.bars.release(slot, 1)
                self.took_q(slot, phase, warp)
                it += 1
                before = slot
                slot, phase = self.bars.step(slot, phase)
            row_max.fill(-Float32.inf)
            row_sum.fill(0.0)
            begun, here = Boolean(False), Boolean(False)
            while n > 0:
                rS = cute.make_rmem_tensor(thr_rs.partition_shape_C((64, UNIT)), Float32)
                # When the unit is not there yet the tensor cores are free: the unit before goes to PV at once.
                if not here:
                    if begun:
                        self.hand_over(before)
                        self.go(before, warp)
                    cute.arch.mbarrier_wait(self.bars.full(slot), phase)
                self.say_came(slot, warp)
                self.see_rows()
                warpgroup.fence()
                # The warps stall in the issue of a long chain, so: `handed` k-steps, the hand-over of the unit before,
                # then the rest. The last k-steps (`early` of those with Q in registers, all with Q in shared memory)
                # are a group of their own, so that PV is told to go a little before S is done; or, where RoPE parts
                # take turns, when that of the unit has come, which is waited for before.
                sB = rK[None, None, None, slot]
                gemm(mma_rs, rS, rQ, sB, (0, kernel.handed), True)
                if here:
                    self.hand_over(before)
                warpgroup.fence()  # behind a branch the compiler wants one, and serialises where it puts it in itself
                gemm(mma_rs, rS, rQ, sB, (kernel.handed, kernel.q_steps - kernel.early), False)
                warpgroup.commit_group()
                gemm(mma_rs, rS, rQ, sB, (kernel.q_steps - kernel.early, kernel.q_steps), False)
                if const_expr(kernel.q_tail > 0):
                    gemm(mma_ss, rS, rQtail, sB, (0, kernel.q_tail), False, kernel.q_steps)
                if const_expr(kernel.turns):
                    bar, parity = self.bars.rope(it)
                    cute.arch.mbarrier_wait(bar, parity)
                    cute.arch.fence_proxy("async.shared", space="cta")
                    warpgroup.fence()
                if const_expr(kernel.rope):
                    rB = rKrope[None, None, None, self.smem.last(it, slot)]
                    gemm(mma_ss, rS, rQrope, rB, (0, kernel.rope_steps), False)
                warpgroup.commit_group()
                attended = self.attended(slot)
                warpgroup.wait_group(1)
                if here:
                    self.go(before, warp)
                # the last tile's 1 / row sum was read
                cute.arch.mbarrier_wait(self.bars.sum_empty(), (piece + 1) & 1)
                warpgroup.wait_group(0)
                n -= 1
                thread = thread_now()
                s_rows = accumulator_rows(rS)
                self.hide(s_rows, thread, attended, record, remaining)
                remaining -= UNIT
                scale = online_softmax([self.factor(0), self.factor(1)], s_rows, row_max, row_sum)
                ahead, ahead_phase = self.bars.step(slot, phase)
                here = cute.arch.vote_all_sync(cute.arch.mbarrier_test_wait(self.bars.full(ahead), ahead_phase))
                rP = cute.make_rmem_tensor_like(rS, dt)
                rP.store(rS.load().to(dt))
                # every warp must be past its S before P overwrites the RoPE slice
                cute.arch.barrier(barrier_id=NamedBarrier.QK, number_of_threads=128)
                store_p(cute.recast_tensor(rP, Int32), self.smem.last_start(it, slot), thread)
                if (thread & 3) == 0:
                    row = row_of(thread)
                    sScale[row, slot] = scale[0]
                    sScale[row + 8, slot] = scale[1]
                it += 1
                begun = Boolean(True)
                before = slot
                slot, phase = ahead, ahead_phase
            self.hand_over(before)
            self.go(before, warp)
            # 1 / row sum travels in the scale array of the next item's slot: the slot's last unit must be done, and the
            # last piece's 1 / row sum read
            cute.arch.mbarrier_wait(self.bars.sum_empty(), (piece + 1) & 1)
            self.wait_until_left(slot, phase)
            self.finish(self.record_of(piece, record), row_max, row_sum, slot, phase, warp)
            piece += 1
            record = self.bars.wait_for_work(piece)
            n = sWork[work.UNITS, record]

    # of batch-invariant calls, where pieces of a tile share a Q: invariant_qk.py

    @cute.jit
    def start(self, slot, phase, warp):
        """There is no tile before the first Q."""
        self.bars.arrive_quads(self.bars.p_full(0))
        self.go_past_q(slot, phase, warp)

    @cute.jit
    def started(self):
        cute.arch.mbarrier_wait(self.bars.p_full(0), 0)  # over by now

    def has_own_q(self, _record):
        return True

    def took_q(self, _slot, _phase, _warp):
        """Its barriers told of the end of the tile before."""

    @cute.jit
    def finish(self, record, row_max: cute.Tensor, row_sum: cute.Tensor, slot, phase, warp):
        """Says the end of a piece in the slot of the next Q, which has no scales."""
        finish_rows(self.kernel, record, row_max, row_sum, self.smem.sScale[None, slot])
        self.bars.arrive_quads(self.bars.p_full(slot))
        self.go_past_q(slot, phase, warp)

    @cute.jit
    def wait_until_left(self, slot, phase):
        """Until PV is done with what had the slot before the item of that phase."""
        cute.arch.mbarrier_wait(self.bars.empty(slot, 0), phase ^ 1)
        cute.arch.mbarrier_wait(self.bars.empty(slot, 1), phase ^ 1)

    def record_of(self, _piece, record):
        return record

    def factor(self, _row):
        """Of the logits in base 2 of the first or second row of this thread."""
        return self.a.scale_log2

    def shift(self, row, row_max):
        """Logit, in base 2, whose weight is 1 before a row's weights are made to sum up to 1."""
        return row_max * self.factor(row)

    def see_rows(self):
        """What TMA brought the tensor cores see."""

    def say_came(self, slot, warp):
        """Nobody wants to know that an item has come."""

    def attended(self, _slot):
        """What a loader told of a unit: nothing."""
        return ()

    def first_remaining(self, record):
        return work.first_remaining(self.kernel, record)

    @cute.jit
    def await_unused(self):
        """Without any work: what the loaders fetched in advance has to come before the CTA ends."""
        cute.arch.mbarrier_wait(self.bars.full(0), 0)
        cute.arch.mbarrier_wait(self.bars.full(1), 0)

    @cute.jit
    def hide(self, s_rows: cute.Tensor, thread, _attended, record, remaining):
        """Logits of tokens that a row does not attend become -inf."""
        if remaining < UNIT:
            mask(self.a, s_rows, thread, remaining, self.smem.sWork, record)
        if self.a.window > 0:
            mask_before_window(self.a, s_rows, thread, remaining)

    @cute.jit
    def take_q(self, item, slot, mma: cute.TiledMma, rQ: cute.Tensor, tid):
        """Q from its slot: the first k-steps to registers, the last and the RoPE part to their own shared memory."""
        kernel, smem, dt = self.kernel, self.smem, self.kernel.dtype
        load = cute.make_copy_atom(cute.nvgpu.warp.LdMatrix8x8x16bOp(False, 4), dt)
        store = cute.make_copy_atom(cute.nvgpu.warp.StMatrix8x8x16bOp(False, 4), dt)
        thr_load = cute.make_tiled_copy_A(load, mma).get_slice(tid)
        thr_save = cute.make_tiled_copy_A(store, mma).get_slice(tid)
        thr = mma.get_slice(tid)
        tLsK = thr_load.partition_S(cute.local_tile(smem.sK, (64, kernel.d_v), (0, 0, None)))
        if const_expr(kernel.rope):
            rope = cute.make_rmem_tensor(thr.partition_shape_A((64, 64)), dt)
            src = thr_load.partition_S(smem.sS)[None, None, None, smem.last(item, slot)]
            cute.copy(thr_load, src, thr_load.retile(rope))
            cute.copy(thr_save, thr_save.retile(rope), thr_save.partition_D(smem.sQrope))
        for i in cutlass.range_constexpr(kernel.q_tail):
            step = cute.make_rmem_tensor(thr.partition_shape_A((64, 16)), dt)
            cute.copy(thr_load, tLsK[None, None, kernel.q_steps + i, slot], thr_load.retile(step)[None, None, 0])
            cute.copy(thr_save, thr_save.retile(step)[None, None, 0], thr_save.partition_D(smem.sQtail)[None, None, i])
        for i in cutlass.range_constexpr(kernel.q_steps):
            cute.copy(thr_load, tLsK[None, None, i, slot], thr_load.retile(rQ)[None, None, i])
        cute.arch.fence_proxy("async.shared", space="cta")
        cute.arch.barrier(barrier_id=NamedBarrier.QK, number_of_threads=128)

    @cute.jit
    def hand_over(self, slot):
        """P and scale of a unit were written with ordinary stores: shows them to the tensor cores and says so."""
        cute.arch.fence_proxy("async.shared", space="cta")
        self.bars.arrive_quads(self.bars.p_full(slot))

    @cute.jit
    def go(self, slot, warp):
        """PV of a unit may start."""
        if warp == 0:
            self.bars.arrive(self.bars.go(slot))

    @cute.jit
    def go_past_q(self, slot, phase, warp):
        """The same of a Q: nobody wants to know, so the warp that says so waits itself."""
        self.go(slot, warp)
        if warp == 0:
            cute.arch.mbarrier_wait(self.bars.go(slot), phase)
