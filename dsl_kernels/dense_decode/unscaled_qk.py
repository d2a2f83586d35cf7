"""QK on codes with one scale for all (unscaled.py), in float16: a row of Q is multiplied with a power of two, which
brings it into that format's range, and with the sign of the scale. Both, and the scale's size, are in the factor of the
row's logits. What an element of a row loses is less than 2^-38 of the largest one. Of a Q of codes, which float16 holds
exactly, a row is multiplied with the sign alone.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, max, min

from dsl_kernels.core.codes import halves
from dsl_kernels.core.schedule_params import STRIPE
from dsl_kernels.core.threads import thread_now

from .codes import load_words, store_words
from .descale import bounded, scale_of, scale_of_q, sign_of_codes
from .gather_qk import GatherQK
from .qk import QK
from .queries import SLICE_BYTES

TOP = 14  # log2 of a row's largest element, or a little more
LEAST, MOST = 15, 254  # exponents, with bfloat16's bias, of that element which have a power: others take the next one
ROWS_AT_ONCE = 4  # of a warp: a lane has 16 bytes of each slice


class UnscaledQK(GatherQK):
    @cute.jit
    def run(self, warp):
        self.factors = cute.make_rmem_tensor((2,), Float32)
        QK.run(self, warp)

    def factor(self, r):
        return self.factors[r]

    @cute.jit
    def take_q(self, item, slot, mma: cute.TiledMma, rQ: cute.Tensor, tid):
        self.make_rows(slot, thread_now())
        QK.take_q(self, item, slot, mma, rQ, tid)

    @cute.jit
    def make_rows(self, slot, thread):
        """Makes this warp's rows of Q float16 in their place, and takes the factors of the logits of this thread's."""
        factors, lane = self.factors, thread & 31
        place = self.smem.slice_start(slot, 0).toint() + (thread >> 5) * (STRIPE * 128)
        scale = scale_of(self.a) * scale_of_q(self.a)
        if self.a.q_coded != 0:
            factor = bounded(self.a.scale_log2 * cute.arch.fmax(scale, -scale))
            factors.fill(factor)
            self.take_codes(place, lane, sign_of_codes(scale))
        else:
            self.take_numbers(place, lane, scale)

    @cute.jit
    def take_numbers(self, place, lane, scale):
        """Of bfloat16."""
        a, factors = self.a, self.factors
        slices: cutlass.Constexpr = self.kernel.d_v // 64 + self.kernel.rope
        for i in cutlass.range(STRIPE // ROWS_AT_ONCE, unroll=1):
            chunks = [load_words(place + lane * 16 + SLICE_BYTES * j) for j in range(slices)]
            top = chunks[0][0]
            for chunk in chunks:
                for word in chunk:
                    top = larger(top, word)
            top = Int32(max(top & 0x7FFF, (top >> 16) & 0x7FFF))
            for lanes in (1, 2, 4):
                top = max(top, cute.arch.shuffle_sync_bfly(top, lanes))
            exponent = max(min(top >> 7, MOST), LEAST)
            to_halves, back = power(2 * 127 + TOP - exponent, scale), power(exponent - TOP, scale)
            for j in cutlass.range_constexpr(slices):
                words = [half_pair(word, to_halves) for word in chunks[j]]
                store_words(place + lane * 16 + SLICE_BYTES * j, words)
            # rows lane / 4 and 8 behind it are this thread's
            factor = cute.arch.shuffle_sync(bounded(a.scale_log2 * back * scale), 8 * ((lane >> 2) & 3))
            factors[0] = factor if (lane >> 4) == i else factors[0]
            factors[1] = factor if (lane >> 4) + 2 == i else factors[1]
            place += ROWS_AT_ONCE * 128
        cute.arch.sync_warp()

    @cute.jit
    def take_codes(self, place, lane, sign):
        """128 columns of a row are in the place of 64: a lane has 16 codes of each slice, as many as two chunks. Those
        of the RoPE part lie in its own slice.
        """
        of_latent: cutlass.Constexpr = self.kernel.d_v // 128
        slices: cutlass.Constexpr = [*range(of_latent), *[self.kernel.last] * self.kernel.rope]
        for i in cutlass.range(STRIPE // ROWS_AT_ONCE, unroll=1):
            words = [load_words(place + lane * 16 + SLICE_BYTES * j) for j in slices]
            row = (4 * i + (lane >> 3)) & 7
            chunk = (lane & 7) ^ row
            to = place + (lane >> 3) * 128 + (((2 * chunk) & 7) ^ row) * 16 + SLICE_BYTES * (chunk >> 2)
            cute.arch.sync_warp()  # numbers go there now
            for j in cutlass.range_constexpr(len(slices)):
                if 128 * j + 16 * chunk < self.kernel.d_qk:
                    for half in cutlass.range_constexpr(2):
                        codes = [words[j][2 * half + k] ^ sign for k in (0, 1)]
                        pairs = [pair for word in codes for pair in halves(word)]
                        store_words((to ^ (16 * half)) + 2 * SLICE_BYTES * j, pairs)
            place += ROWS_AT_ONCE * 128
        cute.arch.sync_warp()


def larger(pairs, others):
    """Magnitudes, with any sign, of pairs of bfloat16; NaN counts only beside NaN."""
    return cute.arch.inline_ptx(
        "max.xorsign.abs.bf16x2 {$w0}, {$r0}, {$r1};", write_only_types=[Int32], read_only_args=[pairs, others]
    )


def power(exponent, sign):
    """2^(exponent - 127) with the sign of a number."""
    return cute.arch.inline_ptx(
        "{ .reg .b32 t; .reg .f32 x; shl.b32 t, {$r0}, 23; mov.b32 x, t; copysign.f32 {$w0}, {$r1}, x; }",
        write_only_types=[Float32],
        read_only_args=[Int32(exponent), sign],
    )


def half_pair(word, factor):
    """2 numbers of bfloat16, times a factor, as float16."""
    return cute.arch.inline_ptx(
        "{ .reg .b32 t; .reg .f32 x, y; shl.b32 t, {$r0}, 16; mov.b32 x, t; and.b32 t, {$r0}, 0xFFFF0000;"
        " mov.b32 y, t; mul.rn.f32 x, x, {$r1}; mul.rn.f32 y, y, {$r1}; cvt.rn.f16x2.f32 {$w0}, y, x; }",
        write_only_types=[Int32],
        read_only_args=[word, factor],
    )
