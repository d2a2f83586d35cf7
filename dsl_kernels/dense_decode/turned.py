"""Rows of codes with one scale for all, for the tensor cores' 8-bit products: QK takes them as they come, PV a copy in
which the tokens of a column lie side by side, because those products take nothing else.

A slot has slices of 128 columns, and a last one for the RoPE part and P (code_qk.py). The copies of two units lie
behind the slots, those of a half of the columns together, in turn. A row of a copy is a column of V: 64 tokens, whose
chunk c of 16 lies at c ^ (column / 2 % 4), the swizzle of rows of 64 bytes. Of 16 tokens 2, 2 that are 8 behind them,
the 2 after the first and so on lie side by side: so ldmatrix and two permutations of bytes give them, and so a lane has
P's.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Uint32

from dsl_kernels.core.fragments import store_matrices
from dsl_kernels.core.threads import lane_now, thread_now

from .codes import PART, load_words, store_words
from .queries import SLICE_BYTES
from .unscaled import UnscaledRows

COLUMN_BYTES = 64  # of a column's tokens
COPIES = 2
# of two words (a token's two neighbouring columns, twice): the bytes of the first column, of the second one
FIRST, SECOND = 0x6420, 0x7531


class TurnedRows(UnscaledRows):
    def __init__(self, kernel, codes, boxed):
        super().__init__(kernel, codes, boxed)
        self.rope_box = (kernel.d_v, kernel.last) if kernel.rope else None

    def raw(self, half, part):
        return self.parts * half + part

    @cute.jit
    def places(self, half, slot, item, warp):
        """Where this lane's rows of this warp's tokens lie, of the unit in a slot and of its copy, and the bytes that
        it takes of two words, for two columns: 16 columns of 8 tokens are a matrix of ldmatrix.
        """
        lane = lane_now(slot)
        row = lane & 7
        # matrices 0 and 1: both eights of tokens; 2 and 3: the next 16 columns
        source = ((lane >> 3) & 1) * 1024 + row * 128 + (((lane >> 4) ^ row) << 4)
        # Lanes of the upper half take the second column first, so that eight rows that are stored together touch
        # each bank once.
        upper = (lane >> 4) & 1
        first = Uint32(FIRST) + Uint32(SECOND - FIRST) * Uint32(upper)
        second = Uint32(FIRST + SECOND) - first
        column = 16 * upper + 2 * row + (((lane >> 3) & 1) ^ (row >> 2))
        to = self.kernel.smem.copy_start(half, item).toint() + column * COLUMN_BYTES + ((warp ^ (row & 3)) << 4)
        return self.place(slot, self.raw(half, 0), warp) + source, to, first, second

    def turn(self, places, begin, end):
        """Turns 32 columns after 32. All are loaded before the first ones are stored, so that their times overlap."""
        source, to, first, second = places
        loaded = []
        for number in range(begin, end):
            part, pair = divmod(number, PART // 32)
            loaded.append(load_turned(source + SLICE_BYTES * part ^ (32 * pair)))
        for number, (x, y, z, w) in zip(range(begin, end), loaded, strict=True):
            words = [permuted(*two, by) for two in ((x, y), (z, w)) for by in (first, second)]
            store_matrices(to + COLUMN_BYTES * 32 * number, words)


@cute.jit
def clear_turned(kernel, half, item):
    """Makes zeros of NaN, because 0 * NaN is NaN. V is part of K, so a row that attends them has NaN from its logits
    anyway.
    """
    size: cutlass.Constexpr = kernel.half * COLUMN_BYTES
    place = kernel.smem.copy_start(half, item).toint() + thread_now() * 16
    for i in cutlass.range(size // (128 * 16), unroll=1):
        words = load_words(place + 2048 * i)
        store_words(place + 2048 * i, [without_nan(word) for word in words])
    cute.arch.fence_proxy("async.shared", space="cta")
    kernel.bars.sync_half(half)


def without_nan(word):
    nan = ((word & Uint32(0x7F7F7F7F)) + Uint32(0x01010101)) & Uint32(0x80808080)
    return word & ~(nan | (nan - (nan >> 7)))


def load_turned(row_address):
    """ldmatrix: four 8 x 8 matrices of two-byte values, of which a lane gets two of a column, one below the other."""
    return cute.arch.inline_ptx(
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 { {$w0}, {$w1}, {$w2}, {$w3} }, [{$r0}];",
        write_only_types=[Uint32] * 4,
        read_only_args=[row_address],
    )


def permuted(x, y, selector):
    return cute.arch.inline_ptx(
        "prmt.b32 {$w0}, {$r0}, {$r1}, {$r2};", write_only_types=[Uint32], read_only_args=[x, y, selector]
    )
