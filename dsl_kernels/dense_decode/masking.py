"""Tokens that a query row does not attend: their logits, and their V rows, whose values may be NaN and must not reach
the output. `kernel`: the DenseDecode.
"""

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float32, Int32, const_expr, max, min

from dsl_kernels.core.attended import row_surplus
from dsl_kernels.core.fragments import row_of
from dsl_kernels.core.schedule import divide
from dsl_kernels.core.schedule_params import UNIT
from dsl_kernels.core.threads import thread_now

from . import work


@cute.jit
def mask(a, s_rows: cute.Tensor, thread, remaining, sWork: cute.Tensor, record):
    """Logits of tokens that a row does not attend become -inf; `remaining` tokens remain for the block's first row."""
    cute.arch.sync_warp()
    for r in cutlass.range_constexpr(2):
        row = row_of(thread) + 8 * r
        surplus = row_surplus(a, row, sWork[work.LENGTH, record], sWork[work.SEEN, record])
        end = remaining + surplus - (thread & 3) * 2
        for c in cutlass.range_constexpr(cute.size(s_rows, mode=[1])):
            s_rows[r, c] = -Float32.inf if (c // 2) * 8 + c % 2 >= end else s_rows[r, c]


@cute.jit
def mask_before_window(a, s_rows: cute.Tensor, thread, remaining):
    """The same of tokens before a row's window; a cache with windows is whole."""
    if max(remaining, 0) - a.window > -a.causal * (a.block_tokens - 1):  # or the windows of all rows have begun
        cute.arch.sync_warp()
        for r in cutlass.range_constexpr(2):
            token = a.causal * divide(row_of(thread) + 8 * r, a.by_block_heads)
            begin = remaining + token - a.window - (thread & 3) * 2
            for c in cutlass.range_constexpr(cute.size(s_rows, mode=[1])):
                s_rows[r, c] = -Float32.inf if (c // 2) * 8 + c % 2 < begin else s_rows[r, c]


@cute.jit
def before_windows(a, remaining):
    """Rows of the unit that lie before the window of the block's last row, of which `remaining` is given; or fewer
    than 0.
    """
    rows = Int32(0)
    if a.window > 0:
        rows = max(remaining, 0) - a.window
    return rows


def shared_remaining(a, remaining):
    """Of the tokens that remain for the block's last row, as many as all its rows attend, or fewer: the limits of
    neighbouring query tokens differ by one at most, in a shard too.
    """
    return remaining - a.causal * (a.block_tokens - 1)


@cute.jit
def clear_rows(kernel, half, slot, remaining):
    """Clears this half of the V rows that not every row of the block attends, because 0 * NaN is NaN; those before a
    window as if some did.

    Rows that none attends become zeros. In rows that some attend, NaN and infinities become zeros: V is part of K, so a
    row that attends them has NaN from its logits anyway, or gives them no weight. A lane takes 16 bytes of a row.
    """
    sWords, thread = kernel.smem.sWords, thread_now()
    exponent = 0x7F80 if const_expr(kernel.dtype is BFloat16) else 0x7C00  # all ones: NaN or infinity
    lanes = 8 * kernel.half_slices  # of a row
    which = kernel.slices * slot + kernel.half_slices * half + thread % lanes // 8
    begin, step = thread // lanes, 128 // lanes
    words = cute.make_rmem_tensor((4,), Int32)
    first = max(shared_remaining(kernel.a, remaining), 0)
    if before_windows(kernel.a, remaining) > 0:
        first = Int32(0)
    first += begin
    for row in cutlass.range(first, min(remaining, UNIT), step, unroll=1):
        chunk = sWords[None, thread % 8, row, which]
        cute.autovec_copy(chunk, words)
        for i in cutlass.range_constexpr(4):
            low = 0 if (words[i] & exponent) == exponent else words[i] & 0xFFFF
            high = 0 if ((words[i] >> 16) & exponent) == exponent else words[i] & -0x10000
            words[i] = low | high
        cute.autovec_copy(words, chunk)
    words.fill(0)
    for row in cutlass.range(max(remaining, 0) + begin, UNIT, step, unroll=4):
        cute.autovec_copy(words, sWords[None, thread % 8, row, which])
    cute.arch.fence_proxy("async.shared", space="cta")
    kernel.bars.sync_half(half)
