"""Merges the partial results of split tiles into the output (FlashDecoding's reduction, in base 2).

Grid (part, row group): the CTAs of part w look whether w begins a tile that it does not end; if so the tile's pieces are those of w and of
the parts behind it that start inside the same tile. A warp merges one row: lanes first read one log-sum-exp each, 32 pieces a round, then all
lanes read the rows, 16 columns each. Partials: libflashmla/src/internal.h, fm_cut.
"""

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float16, Float32, Int32, Int64, min

from . import params
from .components import schedule
from .variants import Variant

D_V = 512
WARPS = 4
COLUMNS = D_V // 32  # of a lane, as 4 groups of 4
LN2 = 0.6931471805599453


class Combine:
    def __init__(self, variant: Variant):
        self.dtype = {"bfloat16": BFloat16, "float16": Float16}[variant.dtype]
        self.threads = 32 * WARPS
        self.shared_bytes = 0
        self.cluster = 1

    @cute.jit
    def __call__(self, args: tuple, stream: cuda.CUstream):
        self.kernel(args).launch(grid=(1, 1, 1), block=(self.threads, 1, 1), stream=stream)

    @cute.kernel
    def kernel(self, args: tuple):
        self.a = a = params.Named(params.COMBINE, args)
        tidx, _, _ = cute.arch.thread_idx()
        w, row_group, _ = cute.arch.block_idx()
        lane = tidx % 32
        row = row_group * WARPS + tidx // 32
        t = schedule.cut(a, w + 1, 0)
        begin = schedule.cut(a, w, 1) if schedule.cut(a, w, 0) == t else Int32(0)
        if (begin == 0) and (schedule.cut(a, w + 1, 1) > 0) and (t < a.num_tiles):
            b, head, k = schedule.tile_place(a, t)
            valid, token, h = schedule.row_place(a, k * a.cluster + row // 64, row % 64)
            if valid:
                self.merge_row(w, t, row, lane, b, token, head * a.group + h)

    @cute.jit
    def piece(self, w, t, j, row):
        """Piece j of tile t begun by part w: (is one, its slot, its log-sum-exp; -inf when it is empty)."""
        a = self.a
        v = min(w + j, a.num_parts - 1)
        inside = (j == 0) or ((w + j < a.num_parts) and (schedule.cut(a, v, 0) == t))
        empty = (schedule.cut(a, v, 0) == schedule.cut(a, v + 1, 0)) and (schedule.cut(a, v, 1) == schedule.cut(a, v + 1, 1))
        slot = 2 * v + 1 if j == 0 else 2 * v
        lse = -Float32.inf
        if inside and not empty:
            lse = cute.make_tensor(a.partial_lse + Int64(slot) * (64 * a.cluster), cute.make_layout(2**30))[row]
        return inside, slot, lse

    @cute.jit
    def merge_row(self, w, t, row, lane, b, token, head):
        a = self.a
        # log-sum-exp over all pieces
        top, total, base, more = -Float32.inf, Float32(0.0), Int32(0), Int32(1)
        while more != 0:
            inside, _, lse = self.piece(w, t, base + lane, row)
            new = cute.arch.fmax(top, warp_reduce(lse, cute.arch.fmax))
            shift = 0.0 if new == -Float32.inf else new
            total = total * cute.math.exp2(top - shift, fastmath=True) + warp_reduce(
                cute.math.exp2(lse - shift, fastmath=True), lambda x, y: x + y
            )
            top = new
            more = Int32(1) if cute.arch.vote_all_sync(inside) else Int32(0)
            base += 32
        attended = total > 0.0
        lse2 = top + cute.math.log2(total)
        # weighted sum of the rows
        acc = cute.make_rmem_tensor((COLUMNS,), Float32)
        acc.fill(0.0)
        base, more = Int32(0), Int32(1) if attended else Int32(0)
        while more != 0:
            inside, slot, lse = self.piece(w, t, base + lane, row)
            weight = cute.math.exp2(lse - lse2, fastmath=True)
            count = cute.arch.popc(cute.arch.vote_ballot_sync(inside))
            for j in cutlass.range(count, unroll=4):
                weight_j = cute.arch.shuffle_sync(weight, j)
                # a piece of no weight may not have been written: read the first one's row instead
                slot_j = cute.arch.shuffle_sync(slot, j) if weight_j != 0.0 else 2 * w + 1
                rows = cute.make_tensor(
                    a.partial + cute.assume((Int64(slot_j) * (64 * a.cluster) + row) * D_V, divby=4), cute.make_layout(D_V)
                )
                part = cute.make_rmem_tensor((4, 4), Float32)
                for g in cutlass.range_constexpr(4):
                    cute.autovec_copy(cute.local_tile(rows, (4,), (32 * g + lane,)), part[None, g])
                for g in cutlass.range_constexpr(4):
                    for c in cutlass.range_constexpr(4):
                        acc[4 * g + c] += part[c, g] * weight_j
            more = Int32(1) if count == 32 else Int32(0)
            base += 32
        where = schedule.out_offset(a, b, token, head)
        out = cute.make_tensor(a.out + cute.assume(where, divby=8), cute.make_layout(D_V))
        for g in cutlass.range_constexpr(4):
            four = cute.make_rmem_tensor((4,), self.dtype)
            for c in cutlass.range_constexpr(4):
                four[c] = acc[4 * g + c].to(self.dtype)
            cute.autovec_copy(four, cute.local_tile(out, (4,), (32 * g + lane,)))
        wanted = a.lse.toint() != 0
        if wanted and (lane == 0):
            dst = cute.make_tensor(a.lse + schedule.lse_offset(a, b, token, head), cute.make_layout(1))
            dst[0] = lse2 * LN2 if attended else Float32.inf


def warp_reduce(value, op):
    for lanes in (16, 8, 4, 2, 1):
        value = op(value, cute.arch.shuffle_sync_bfly(value, lanes))
    return value
