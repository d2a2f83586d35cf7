"""Results of a tile: rows and log-sum-exps to the output, or to the partial slot of the piece."""

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64

from . import schedule
from .softmax import row_of

D_V = 512
LN2 = 0.6931471805599453


@cute.jit
def opaque(x):
    """The same value, but work done on it before cannot be shared: what hangs on it is not kept in registers."""
    return cute.arch.inline_ptx("mov.b32 {$w0}, {$r0};", write_only_types=[Int32], read_only_args=[Int32(x)])


@cute.jit
def thread_now():
    """Thread number in the warpgroup, read on the spot."""
    x, _, _ = cute.arch.thread_idx()
    return opaque(x) % 128


@cute.jit
def finish_rows(a, cluster, rank, w, t, row_max: cute.Tensor, row_sum: cute.Tensor, sInverse: cute.Tensor):
    """1 / row sum for the PV warpgroups, and the log-sum-exp of the rows."""
    thread, t, wanted = thread_now(), opaque(t), a.lse.toint() != 0
    b, head, k = schedule.tile_place(a, t)
    slot = schedule.partial_slot(a, opaque(w), t)
    for r in cutlass.range_constexpr(2):
        total = row_sum[r]
        total = total + cute.arch.shuffle_sync_bfly(total, 1)
        total = total + cute.arch.shuffle_sync_bfly(total, 2)
        if thread % 4 == 0:
            row = row_of(thread) + 8 * r
            empty = total == 0.0
            sInverse[row] = 0.0 if empty else cute.arch.rcp_approx(total)
            lse2 = row_max[r] * a.scale_log2 + cute.math.log2(total)
            if slot >= 0:
                where = Int64(slot) * (64 * cluster) + rank * 64 + row
                dst = cute.make_tensor(a.partial_lse + where, cute.make_layout(1))
                dst[0] = -Float32.inf if empty else lse2
            elif wanted:
                valid, token, h = schedule.row_place(a, k * cluster + rank, row)
                if valid:
                    where = schedule.lse_offset(a, b, token, head * a.group + h)
                    dst = cute.make_tensor(a.lse + where, cute.make_layout(1))
                    dst[0] = Float32.inf if empty else lse2 * LN2


@cute.jit
def store_rows(a, cluster, rank, w, t, half, o_rows: cute.Tensor, inverse0, inverse1):
    """256 columns of the rows, normalised."""
    thread, t = thread_now(), opaque(t)
    quad = thread % 4
    slot = schedule.partial_slot(a, opaque(w), t)
    b, head, k = schedule.tile_place(a, t)
    for r in cutlass.range_constexpr(2):
        row = row_of(thread) + 8 * r
        inverse = inverse0 if r == 0 else inverse1
        valid, token, h = schedule.row_place(a, k * cluster + rank, row)
        if (slot >= 0) and valid:
            where = ((Int64(slot) * cluster + rank) * 64 + row) * D_V + half * 256
            dst = cute.make_tensor(a.partial + cute.assume(where, divby=4), cute.make_layout(256))
            for j in cutlass.range_constexpr(32):
                pair = cute.make_rmem_tensor((2,), Float32)
                pair[0] = o_rows[r, 2 * j] * inverse
                pair[1] = o_rows[r, 2 * j + 1] * inverse
                cute.autovec_copy(pair, cute.local_tile(dst, (2,), (4 * j + quad,)))
        if slot < 0:  # all lanes take part in the exchange, valid or not
            where = schedule.out_offset(a, b, token, head * a.group + h) + half * 256
            words = cute.recast_ptr(a.out + cute.assume(where, divby=8), dtype=Int32)
            dst = cute.make_tensor(words, cute.make_layout(128))
            for j in cutlass.range_constexpr(8):
                eight = _transpose_quad(a.out.dtype, [o_rows[r, 8 * j + c] * inverse for c in range(8)], quad)
                if valid:
                    cute.autovec_copy(eight, cute.local_tile(dst, (4,), (4 * j + quad,)))


def _transpose_quad(dtype, values, quad):
    """Four lanes hold pairs out of 32 columns: after the exchange each has 8 neighbours, for 16-byte stores."""
    full = cute.make_rmem_tensor((8,), Float32)
    for c in range(8):
        full[c] = values[c]
    packed = cute.make_rmem_tensor((8,), dtype)
    packed.store(full.load().to(dtype))
    return _exchange(cute.recast_tensor(packed, Int32), (quad & 1) == 1, (quad & 2) == 2)


@cute.jit
def _exchange(w: cute.Tensor, odd, high):
    """Transposes a 4 x 4 matrix of words whose rows lie in four lanes."""
    y0 = cute.arch.shuffle_sync_bfly(w[0] if odd else w[1], 1)
    y1 = cute.arch.shuffle_sync_bfly(w[2] if odd else w[3], 1)
    a0 = y0 if odd else w[0]
    a1 = w[1] if odd else y0
    b0 = y1 if odd else w[2]
    b1 = w[3] if odd else y1
    z0 = cute.arch.shuffle_sync_bfly(a0 if high else b0, 2)
    z1 = cute.arch.shuffle_sync_bfly(a1 if high else b1, 2)
    w[0] = z0 if high else a0
    w[1] = z1 if high else a1
    w[2] = b0 if high else z0
    w[3] = b1 if high else z1
    return w
