"""Online softmax on the logits of one unit, in the registers of the QK warpgroup.

A thread holds two rows (r and r + 8 of its warp's 16) and 16 columns of each: column c is token
(c // 2) * 8 + c % 2 + 2 * (lane % 4).
"""

import cutlass
import cutlass.cute as cute
from cutlass import Float32

from . import schedule

# A row maximum may be this much too small (log2) before the output is rescaled: P <= 2^8 loses nothing in bf16 or fp16.
LAZY_LOG2 = 8.0


def row_of(thread):
    """First of the two rows that a thread of a warpgroup holds in an m64 accumulator."""
    return ((thread >> 5) << 4) + ((thread >> 2) & 7)


@cute.jit
def mask(a, s_rows: cute.Tensor, thread, left, length, tokens):
    """Logits of tokens that a row does not attend become -inf; `left` tokens are left for the block's first row, and
    `length`, `tokens` are as in schedule.row_surplus.
    """
    cute.arch.sync_warp()
    for r in cutlass.range_constexpr(2):
        row = row_of(thread) + 8 * r
        end = left + schedule.row_surplus(a, row, length, tokens) - (thread & 3) * 2
        for c in cutlass.range_constexpr(cute.size(s_rows, mode=[1])):
            s_rows[r, c] = -Float32.inf if (c // 2) * 8 + c % 2 >= end else s_rows[r, c]


@cute.jit
def online_softmax(scale_log2, s_rows: cute.Tensor, row_max: cute.Tensor, row_sum: cute.Tensor):
    """Logits -> unnormalised probabilities in place; returns the factors for what was accumulated before."""
    scale = cute.make_rmem_tensor((2,), Float32)
    for r in cutlass.range_constexpr(2):
        old = row_max[r]
        new = cute.arch.fmax(_tree_max([s_rows[r, c] for c in range(16)]), old)
        new = cute.arch.fmax(new, cute.arch.shuffle_sync_bfly(new, 1))
        new = cute.arch.fmax(new, cute.arch.shuffle_sync_bfly(new, 2))
        new = old if (new - old) * scale_log2 <= LAZY_LOG2 else new
        row_max[r] = new
        base = 0.0 if new == -Float32.inf else new
        # the difference first: exactly 1 when the maximum is kept, whatever the rounding of the product
        scale[r] = cute.math.exp2((old - base) * scale_log2, fastmath=True)
        shift = base * scale_log2
        p = cute.math.exp2(s_rows[r, None].load() * scale_log2 - shift, fastmath=True)
        s_rows[r, None].store(p)
        row_sum[r] = row_sum[r] * scale[r] + p.reduce(cute.ReductionOp.ADD, Float32(0.0), 0)
    return scale


def _tree_max(values):
    while len(values) > 1:
        values = [cute.arch.fmax(x, y) for x, y in zip(values[::2], values[1::2], strict=True)]
    return values[0]
