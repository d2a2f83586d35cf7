"""V rows of tokens that not every query row attends: their values, which may be NaN, must not reach the output."""

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Int32, const_expr, max, min

from .epilogue import thread_now
from .schedule import UNIT


def shared_left(a, left):
    """Of the `left` tokens that the block's last row attends from here on, as many as all its rows do, or fewer: the
    limits of neighbouring query tokens differ by one at most, in a shard too.
    """
    return left - a.causal * (a.block_tokens - 1)


@cute.jit
def clear(k, half, slot, left):
    """Clears this half of the V rows that not every row of the block attends, because 0 * NaN is NaN. `k`: the kernel.

    Rows that none attends become zeros. In rows that some attend, NaN and infinities become zeros: V is part of K, so a
    row that attends them has NaN from its logits anyway, or gives them no weight. A lane takes 16 bytes of a row.
    """
    sWords, thread = k.smem.sWords, thread_now()
    exponent = 0x7F80 if const_expr(k.dtype is BFloat16) else 0x7C00  # all ones: NaN or infinity
    lanes = 8 * k.half_slices  # of a row
    which = k.slices * slot + k.half_slices * half + thread % lanes // 8
    begin, step = thread // lanes, 128 // lanes
    words = cute.make_rmem_tensor((4,), Int32)
    for row in cutlass.range(max(shared_left(k.a, left), 0) + begin, min(left, UNIT), step, unroll=1):
        chunk = sWords[None, thread % 8, row, which]
        cute.autovec_copy(chunk, words)
        for i in cutlass.range_constexpr(4):
            low = 0 if (words[i] & exponent) == exponent else words[i] & 0xFFFF
            high = 0 if ((words[i] >> 16) & exponent) == exponent else words[i] & -0x10000
            words[i] = low | high
        cute.autovec_copy(words, chunk)
    words.fill(0)
    for row in cutlass.range(max(left, 0) + begin, UNIT, step, unroll=4):
        cute.autovec_copy(words, sWords[None, thread % 8, row, which])
    cute.arch.fence_proxy("async.shared", space="cta")
    k.bars.sync_half(half)
