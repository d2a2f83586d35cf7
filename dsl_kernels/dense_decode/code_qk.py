"""QK on the tensor cores' 8-bit products: S of Q's codes, all in registers, and of the cache's, where TMA brings them;
P in codes.

The weight of a row's maximum is 2^TOP_LOG2, a power of two: of codes a little below one the steps are smallest beside
them. By what the maximum may be too small it stays below the largest code, 448. Row sums are those of weights that are
not rounded.
"""

import cutlass
import cutlass.cute as cute
import cutlass.utils.hopper_helpers as sm90
from cutlass import Float8E4M3FN, Float32, Int32, Uint32
from cutlass.cute.nvgpu import OperandMajorMode, warpgroup

from dsl_kernels.core.fragments import accumulator_rows, gemm, row_of, store_matrices
from dsl_kernels.core.schedule_params import UNIT
from dsl_kernels.core.softmax import online_softmax
from dsl_kernels.core.threads import thread_now

from . import work
from .descale import bounded, scale_of, scale_of_q, sign_of_codes
from .epilogue import finish_rows
from .gather_qk import GatherQK
from .queries import SLICE_BYTES

STEP, SLICE_STEPS = 32, 4  # columns of a k-step, k-steps of a slice
P_STEP = 2  # that at which P begins in the last slice, behind the RoPE part
TOP_LOG2, LAZY_LOG2 = 8.0, 0.8


class CodeQK(GatherQK):
    @cute.jit
    def run(self, _warp):
        """As QK's. Each unit is handed over at once: products are short, and PV has more to do beside them than QK."""
        kernel, sWork = self.kernel, self.smem.sWork
        self.make_fragments()
        self.factors = cute.make_rmem_tensor((1,), Float32)
        row_max = cute.make_rmem_tensor((2,), Float32)
        row_sum = cute.make_rmem_tensor((2,), Float32)
        it, piece = Int32(0), Int32(0)  # items, pieces
        self.bars.arrive_quads(self.bars.p_full(0))  # there is no tile before the first Q
        record = self.bars.wait_for_work(piece)
        cute.arch.mbarrier_wait(self.bars.p_full(0), 0)  # over by now
        n = sWork[work.UNITS, record]
        while n > 0:
            remaining = self.first_remaining(record)
            slot, phase = self.bars.slot_phase(it)
            cute.arch.mbarrier_wait(self.bars.full(slot), phase)
            self.take_codes(slot)
            self.bars.release(slot, 0)
            self.bars.release(slot, 1)
            it += 1
            row_max.fill(-Float32.inf)
            row_sum.fill(0.0)
            while n > 0:
                slot, phase = self.bars.slot_phase(it)
                rS = cute.make_rmem_tensor(self.shape_s, Float32)
                for half in cutlass.range_constexpr(2):
                    cute.arch.mbarrier_wait(self.bars.raw(slot, half), phase)
                cute.arch.mbarrier_wait(self.bars.sum_empty(), (piece + 1) & 1)
                warpgroup.fence()
                self.make_s(rS, slot)
                warpgroup.commit_group()
                warpgroup.wait_group(0)
                n -= 1
                thread = thread_now()
                s_rows = accumulator_rows(rS)
                self.hide(s_rows, thread, (), record, remaining)
                remaining -= UNIT
                factors = [self.factor(0), self.factor(1)]
                scale = online_softmax(factors, s_rows, row_max, row_sum, LAZY_LOG2, TOP_LOG2)
                self.store_unit(s_rows, scale, slot, thread)
                self.hand_over(slot)
                it += 1
            # where 1 / row sum travels, and what must be over: qk.py
            slot, phase = self.bars.slot_phase(it)
            cute.arch.mbarrier_wait(self.bars.sum_empty(), (piece + 1) & 1)
            cute.arch.mbarrier_wait(self.bars.empty(slot, 0), phase ^ 1)
            cute.arch.mbarrier_wait(self.bars.empty(slot, 1), phase ^ 1)
            finish_rows(kernel, record, row_max, row_sum, self.smem.sScale[None, slot])
            self.bars.arrive_quads(self.bars.p_full(slot))
            piece += 1
            record = self.bars.wait_for_work(piece)
            n = sWork[work.UNITS, record]

    def factor(self, _row):
        return self.factors[0]

    def shift(self, row, row_max):
        return row_max * self.factor(row) - TOP_LOG2

    def make_fragments(self):
        kernel, codes = self.kernel, Float8E4M3FN
        majors = OperandMajorMode.K, OperandMajorMode.K
        source = warpgroup.OperandSource.RMEM
        self.mma = sm90.make_trivial_tiled_mma(codes, codes, *majors, Float32, (1, 1, 1), (64, UNIT), source)
        tid, _, _ = cute.arch.thread_idx()
        thr = self.mma.get_slice(tid)
        self.rK = thr.make_fragment_B(thr.partition_B(self.smem.sCodes))  # (MMA, 1, 4, slices * slots)
        self.rQ = cute.make_rmem_tensor(thr.partition_shape_A((64, kernel.d_qk)), codes)
        self.shape_s = thr.partition_shape_C((64, UNIT))

    def make_s(self, rS, slot):
        """The k-steps of a slice of codes together."""
        steps = self.kernel.d_qk // STEP
        for begin in range(0, steps, SLICE_STEPS):
            rK = self.rK[None, None, None, self.kernel.slices * slot + begin // SLICE_STEPS]
            gemm(self.mma, rS, self.rQ, rK, (begin, min(begin + SLICE_STEPS, steps)), begin == 0, -begin)

    @cute.jit
    def store_unit(self, s_rows, scale, slot, thread):
        """P behind the RoPE part, which other warps may still need, and the factors of what was accumulated before. Of
        16 tokens a lane has 2, and 2 that are 8 behind them: they lie side by side, as in V's copy (turned.py).
        """
        lane = thread & 31
        row = ((thread >> 5) << 4) + (((lane >> 3) & 1) << 3) + (lane & 7)
        start = self.smem.slice_start(slot, self.kernel.last).toint() + (row << 7)
        chunk = ((2 * P_STEP + (lane >> 4)) ^ (lane & 7)) << 4
        for j in cutlass.range_constexpr(2):
            tokens = [(r, 4 * c) for c in (2 * j, 2 * j + 1) for r in (0, 1)]
            words = [code_word(*[s_rows[r, first + i] for i in range(4)]) for r, first in tokens]
            store_matrices(start + (chunk ^ (32 * j)), words)
        sScale = self.smem.sScale
        if (thread & 3) == 0:
            row = row_of(thread)
            sScale[row, slot] = scale[0]
            sScale[row + 8, slot] = scale[1]

    @cute.jit
    def take_codes(self, slot):
        """The sign of the scales goes to Q's codes, so that the factor of logits has none."""
        thread = thread_now()
        scale = scale_of(self.a) * scale_of_q(self.a)
        self.factors[0] = bounded(self.a.scale_log2 * cute.arch.fmax(scale, -scale))
        sign, lane = sign_of_codes(scale), thread & 31
        row = ((thread >> 5) << 4) + (((lane >> 3) & 1) << 3) + (lane & 7)
        start = self.smem.slice_start(slot, 0).toint() + (row << 7)
        chunk = ((lane >> 4) ^ (lane & 7)) << 4
        words = cute.recast_tensor(self.rQ, Uint32)
        words = cute.make_tensor(words.iterator, cute.make_layout(cute.size(words)))
        for step in cutlass.range_constexpr(self.kernel.d_qk // STEP):
            found = load_matrices(start + SLICE_BYTES * (step // 4) + (chunk ^ (32 * (step % 4))))
            for i in cutlass.range_constexpr(4):
                words[4 * step + i] = found[i] ^ sign


def code_word(x0, x1, x2, x3):
    """4 numbers -> their codes."""
    return cute.arch.inline_ptx(
        "{ .reg .b16 a, b; cvt.rn.satfinite.e4m3x2.f32 a, {$r1}, {$r0}; cvt.rn.satfinite.e4m3x2.f32 b, {$r3}, {$r2};"
        " mov.b32 {$w0}, {a, b}; }",
        write_only_types=[Int32],
        read_only_args=[x0, x1, x2, x3],
    )


def load_matrices(row_address):
    """ldmatrix: the counterpart of fragments.store_matrices."""
    return cute.arch.inline_ptx(
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 { {$w0}, {$w1}, {$w2}, {$w3} }, [{$r0}];",
        write_only_types=[Uint32] * 4,
        read_only_args=[row_address],
    )
