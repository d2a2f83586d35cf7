"""Online softmax on the logits of one unit, in the registers of a warpgroup that holds them as an m64n64 accumulator:
two rows a thread, and 16 columns of each.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Float32, const_expr

# A row maximum may be this much too small (log2) before the output is rescaled: P <= 2^8 loses nothing in bf16 or fp16.
LAZY_LOG2 = 8.0


@cute.jit
def online_softmax(
    factors,
    s_rows: cute.Tensor,
    row_max: cute.Tensor,
    row_sum: cute.Tensor,
    lazy: cutlass.Constexpr = LAZY_LOG2,
    top: cutlass.Constexpr = 0.0,
):
    """Logits -> unnormalised probabilities in place; returns the factors for what was accumulated before. factors: of
    the logits of each row, in base 2. lazy: as LAZY_LOG2; top: log2 of the weight of the row maximum.
    """
    scale = cute.make_rmem_tensor((2,), Float32)
    for r in cutlass.range_constexpr(2):
        scale_log2, old = factors[r], row_max[r]
        new = cute.arch.fmax(_tree_max([s_rows[r, c] for c in range(16)]), old)
        new = cute.arch.fmax(new, cute.arch.shuffle_sync_bfly(new, 1))
        new = cute.arch.fmax(new, cute.arch.shuffle_sync_bfly(new, 2))
        new = old if (new - old) * scale_log2 <= lazy else new
        row_max[r] = new
        base = 0.0 if new == -Float32.inf else new
        # the difference first: exactly 1 when the maximum is kept, whatever the rounding of the product; and 1 where
        # nothing was accumulated before, so that zeros are not rescaled
        kept = cute.math.exp2((old - base) * scale_log2, fastmath=True)
        scale[r] = 1.0 if old == -Float32.inf else kept
        shift = base * scale_log2 - top if const_expr(top != 0.0) else base * scale_log2
        p = cute.math.exp2(s_rows[r, None].load() * scale_log2 - shift, fastmath=True)
        s_rows[r, None].store(p)
        row_sum[r] = row_sum[r] * scale[r] + p.reduce(cute.ReductionOp.ADD, Float32(0.0), 0)
    return scale


def _tree_max(values):
    while len(values) > 1:
        values = [cute.arch.fmax(x, y) for x, y in zip(values[::2], values[1::2], strict=True)]
    return values[0]
