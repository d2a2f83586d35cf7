"""Results of a tile: rows and log-sum-exps to the output, or to the partial slot of the piece."""

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64, Uint32, min

from . import schedule
from .schedule import opaque
from .softmax import row_of


@cute.jit
def thread_now():
    """Thread number in the warpgroup, read on the spot."""
    x, _, _ = cute.arch.thread_idx()
    return opaque(x) % 128


# Where the rows of a tile go, in shared memory: three numbers of 64 bits, bytes, and three of 32 bits. Row r of a
# block is query token r // block_heads, head r % block_heads of it.
BASE, TOKEN_STRIDE, HEAD_STRIDE, WIDE_WORDS = range(4)
TOKENS, HEADS, IS_FLOAT, NARROW_WORDS = range(4)


@cute.jit
def finish_rows(k, w, t, row_max: cute.Tensor, row_sum: cute.Tensor, sInverse: cute.Tensor):
    """1 / row sum and the rows' place for the PV warpgroups, and the log-sum-exp of the rows. `k`: the kernel."""
    a, sWide, sNarrow = k.a, k.sWide, k.sNarrow
    thread, t, wanted = thread_now(), opaque(t), a.lse.toint() != 0
    b, head, tile = schedule.tile_place(a, t)
    begin, count = schedule.query_range(a, b)
    block = tile * k.cluster + k.rank
    slot = schedule.partial_slot(a, opaque(w), t)
    slot_row = (Int64(slot) * k.cluster + k.rank) * 64
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
                dst = cute.make_tensor(a.partial_lse + (slot_row + row), cute.make_layout(1))
                dst[0] = -Float32.inf if empty else lse2
            elif wanted:
                valid, token, h = schedule.row_place(a, block, row, count)
                if valid:
                    where = schedule.lse_offset(a, b, begin + token, head * a.group + h)
                    dst = cute.make_tensor(a.lse + where, cute.make_layout(1))
                    dst[0] = a.empty_lse if empty else lse2 * a.lse_factor
    size = 4 if a.out_is_float != 0 else 2  # bytes of an element
    token, h = schedule.first_token(a, block), block % a.head_chunks * a.block_heads
    base = a.out.toint() + size * schedule.out_offset(a, b, begin + token, head * a.group + h)
    token_stride, head_stride = size * a.out_stride_s, size * a.out_stride_h
    if slot >= 0:
        size = 4
        head_stride = Int64(4 * k.d_v)
        token_stride = head_stride * a.block_heads
        base = schedule.address(a.partial) + slot_row * head_stride
    if thread == 0:
        sWide[BASE], sWide[TOKEN_STRIDE], sWide[HEAD_STRIDE] = base, token_stride, head_stride
        sNarrow[TOKENS] = min(a.block_tokens, count - token)
        sNarrow[HEADS] = min(a.block_heads, a.group - h)
        sNarrow[IS_FLOAT] = size // 4


@cute.jit
def row_address(k, half, below):
    """Where the half of this thread's first row, or of the row `below` it, begins in bytes; 0: it is not stored."""
    a, sWide, sNarrow = k.a, k.sWide, k.sNarrow
    row = Uint32(row_of(thread_now()) + below)
    token = row // Uint32(a.block_heads)
    head = row - token * Uint32(a.block_heads)
    where = sWide[BASE] + half * k.half * (2 + 2 * sNarrow[IS_FLOAT])
    where += Int64(token) * sWide[TOKEN_STRIDE] + Int64(head) * sWide[HEAD_STRIDE]
    return where if (Int32(token) < sNarrow[TOKENS]) and (Int32(head) < sNarrow[HEADS]) else Int64(0)


@cute.jit
def store_row(dtype: cutlass.Constexpr, address, is_float, row: cute.Tensor):
    """This lane's quarter of half a row; all lanes take part, whether the row is stored or not."""
    columns: cutlass.Constexpr = 4 * cute.size(row)
    quad = thread_now() % 4
    if is_float != 0:
        if address != 0:
            dst = _global(Float32, address + 8 * quad, columns)
            for j in cutlass.range_constexpr(columns // 8):
                pair = cute.make_rmem_tensor((2,), Float32)
                pair[0], pair[1] = row[2 * j], row[2 * j + 1]
                cute.autovec_copy(pair, cute.local_tile(dst, (2,), (4 * j,)))
    else:
        dst = _global(Int32, address + 16 * quad, columns // 2)
        for j in cutlass.range_constexpr(columns // 32):
            eight = _transpose_quad(dtype, [row[8 * j + c] for c in range(8)], quad)
            if address != 0:
                cute.autovec_copy(eight, cute.local_tile(dst, (4,), (4 * j,)))


def _global(dtype, address, size):
    where = cute.make_ptr(dtype, address, cute.AddressSpace.gmem, assumed_align=16 if dtype is Int32 else 8)
    return cute.make_tensor(where, cute.make_layout(size))


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
