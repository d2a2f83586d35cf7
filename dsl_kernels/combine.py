"""Merges the partial results of split tiles into the output (FlashDecoding's reduction, in base 2).

Every CTA looks through the schedule for parts that begin a tile they do not end; the rows of those tiles are dealt out
over the grid, so the work is balanced however the tiles were split. With many rows a warp merges one; with few rows,
which have many pieces then, the whole CTA does: groups of d_v / 4 threads share out the pieces, and their sums are
added. Partials: libflashmla/src/internal.h, fm_cut.
"""

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Boolean, Float16, Float32, Int32, Int64, min

from . import params
from .components import schedule
from .variants import Variant

THREADS = 512
WARPS = THREADS // 32
MAX_PIECES = 1024  # of one tile: the most splits a plan can be forced to, and more than there are SMs
ROWS_FOR_WARPS = 2  # more rows than this for each CTA: a warp a row


class Combine:
    def __init__(self, variant: Variant):
        self.dtype = {"bfloat16": BFloat16, "float16": Float16}[variant.dtype]
        self.d_v = variant.d_v
        self.groups = THREADS // (self.d_v // 4)
        self.threads = THREADS
        self.cluster = 1

    @cute.jit
    def __call__(self, args: tuple, stream: cuda.CUstream):
        @cute.struct
        class Storage:
            sums: cute.struct.Align[cute.struct.MemRange[Float32, (self.groups - 1) * self.d_v], 16]
            weights: cute.struct.MemRange[Float32, MAX_PIECES]
            begins: cute.struct.MemRange[Int32, THREADS]
            counts: cute.struct.MemRange[Int32, WARPS]

        self.storage = Storage
        self.shared_bytes = Storage.size_in_bytes()
        self.kernel(args).launch(grid=(1, 1, 1), block=(self.threads, 1, 1), stream=stream, min_blocks_per_mp=1)

    @cute.kernel
    def kernel(self, args: tuple):
        self.a = a = params.Named(params.COMBINE, args)
        tid, _, _ = cute.arch.thread_idx()
        bid, _, _ = cute.arch.block_idx()
        grid, _, _ = cute.arch.grid_dim()
        st = cutlass.memory.SmemAllocator().allocate(self.storage)
        self.sSums = st.sums.get_tensor(cute.make_layout((4, self.d_v // 4, self.groups - 1)))
        self.sWeights = st.weights.get_tensor(cute.make_layout(MAX_PIECES))
        begins, counts = st.begins.get_tensor(cute.make_layout(THREADS)), st.counts.get_tensor(cute.make_layout(WARPS))
        cute.arch.griddepcontrol_launch_dependents()
        rows = 64 * a.cluster
        for base in cutlass.range(0, a.num_parts, THREADS, unroll=1):
            # dense_decode began, so the schedule is there; its partials are only after the wait
            found = self.list_split_tiles(base, tid, begins, counts)
            if base == 0:
                cute.arch.griddepcontrol_wait()
            # a batch-invariant sum has one order, however many rows there are
            if (found * rows > ROWS_FOR_WARPS * grid) or (a.piece_units > 0):
                for r in cutlass.range(bid + tid // 32 * grid, found * rows, WARPS * grid, unroll=1):
                    self.merge_row_by_warp(begins[r // rows], r % rows, tid % 32)
            else:
                for r in cutlass.range(bid, found * rows, grid, unroll=1):
                    self.merge_row_by_block(begins[r // rows], r % rows, tid)
            cute.arch.sync_threads()

    @cute.jit
    def list_split_tiles(self, base, tid, begins: cute.Tensor, counts: cute.Tensor):
        """Of the parts from base on, those that begin a tile they do not end, in order; returns how many."""
        w = min(base + tid, self.a.num_parts - 1)
        t, last = schedule.cut(self.a, w, 0), schedule.cut(self.a, w + 1, 0)
        begins_here = (t != last) or (schedule.cut(self.a, w, 1) == 0)
        split = (
            (base + tid < self.a.num_parts)
            and begins_here
            and (schedule.cut(self.a, w + 1, 1) > 0)
            and (last < self.a.num_tiles)
        )
        votes = cute.arch.vote_ballot_sync(split)
        warp, lane = tid // 32, tid % 32
        counts[warp] = cute.arch.popc(votes)
        cute.arch.sync_threads()
        before, total = Int32(0), Int32(0)
        for i in cutlass.range_constexpr(WARPS):
            before += counts[i] if i < warp else Int32(0)
            total += counts[i]
        if split:
            begins[before + cute.arch.popc(votes & ((1 << lane) - 1))] = w
        cute.arch.sync_threads()
        return total

    @cute.jit
    def piece(self, w, t, j, row):
        """Piece j of tile t begun by part w: (is there one, its log-sum-exp; -inf when it is empty)."""
        a = self.a
        v = min(w + j, a.num_parts - 1)
        exists = (j < MAX_PIECES) and ((j == 0) or ((w + j < a.num_parts) and (schedule.cut(a, v, 0) == t)))
        empty = (schedule.cut(a, v, 0) == schedule.cut(a, v + 1, 0)) and (
            schedule.cut(a, v, 1) == schedule.cut(a, v + 1, 1)
        )
        lse = -Float32.inf
        if exists and not empty:
            lse = cute.make_tensor(a.partial_lse + Int64(slot_of(a, w, j)) * (64 * a.cluster), cute.make_layout(2**30))[
                row
            ]
        return exists, lse

    @cute.jit
    def row_lse(self, w, t, row, lane):
        """One warp: (number of pieces, base-2 log-sum-exp over them; -inf when no token was attended)."""
        top, total, count, more = -Float32.inf, Float32(0.0), Int32(0), Boolean(True)
        while more:
            exists, lse = self.piece(w, t, count + lane, row)
            new = cute.arch.fmax(top, warp_reduce(lse, cute.arch.fmax))
            shift = 0.0 if new == -Float32.inf else new
            here = warp_reduce(cute.math.exp2(lse - shift, fastmath=True), lambda x, y: x + y)
            total = total * cute.math.exp2(top - shift, fastmath=True) + here
            top = new
            found = cute.arch.popc(cute.arch.vote_ballot_sync(exists))
            count += found
            more = found == 32
        return count, top + cute.math.log2(total)

    @cute.jit
    def weight(self, w, t, j, row, lse2):
        _, lse = self.piece(w, t, j, row)
        return cute.math.exp2(lse - lse2, fastmath=True) if lse != -Float32.inf else Float32(0.0)

    @cute.jit
    def add_piece(self, acc: cute.Tensor, w, j, row, chunk, weight):
        """Adds four columns of piece j. A piece of no weight may not have been written, so its values are not used."""
        rows = self.a.partial + cute.assume(
            (Int64(slot_of(self.a, w, j)) * (64 * self.a.cluster) + row) * self.d_v, divby=4
        )
        part = cute.make_rmem_tensor((4,), Float32)
        cute.autovec_copy(cute.local_tile(cute.make_tensor(rows, cute.make_layout(self.d_v)), (4,), (chunk,)), part)
        for c in cutlass.range_constexpr(4):
            acc[c] += part[c] * weight if weight != 0.0 else Float32(0.0)

    @cute.jit
    def store(self, acc: cute.Tensor, where, chunk):
        """Four columns of an output row."""
        a = self.a
        if a.out_is_float != 0:
            wide = cute.recast_ptr(a.out, dtype=Float32) + cute.assume(where, divby=4)
            cute.autovec_copy(acc, cute.local_tile(cute.make_tensor(wide, cute.make_layout(self.d_v)), (4,), (chunk,)))
        else:
            rounded = cute.make_rmem_tensor((4,), self.dtype)
            rounded.store(acc.load().to(self.dtype))
            out = cute.make_tensor(a.out + cute.assume(where, divby=8), cute.make_layout(self.d_v))
            cute.autovec_copy(rounded, cute.local_tile(out, (4,), (chunk,)))

    @cute.jit
    def store_lse(self, lse2, b, token, head):
        a, wanted = self.a, self.a.lse.toint() != 0
        if wanted:
            dst = cute.make_tensor(a.lse + schedule.lse_offset(a, b, token, head), cute.make_layout(1))
            dst[0] = lse2 * a.lse_factor if lse2 != -Float32.inf else a.empty_lse

    @cute.jit
    def merge_row_by_warp(self, w, row, lane):
        a = self.a
        t = schedule.cut(a, w + 1, 0)
        b, kv_head, k = schedule.tile_place(a, t)
        begin, tokens = schedule.query_range(a, b)
        valid, token, h = schedule.row_place(a, k * a.cluster + row // 64, row % 64, tokens)
        if valid:
            count, lse2 = self.row_lse(w, t, row, lane)
            acc = cute.make_rmem_tensor(cute.make_layout((4, self.d_v // 128)), Float32)
            acc.fill(0.0)
            for base in cutlass.range(0, count, 32, unroll=1):
                weights = self.weight(w, t, base + lane, row, lse2)
                for j in cutlass.range(min(count - base, 32), unroll=4):
                    weight = cute.arch.shuffle_sync(weights, j)
                    for g in cutlass.range_constexpr(self.d_v // 128):
                        self.add_piece(acc[None, g], w, base + j, row, 32 * g + lane, weight)
            where = schedule.out_offset(a, b, begin + token, kv_head * a.group + h)
            for g in cutlass.range_constexpr(self.d_v // 128):
                self.store(acc[None, g], where, 32 * g + lane)
            if lane == 0:
                self.store_lse(lse2, b, begin + token, kv_head * a.group + h)

    @cute.jit
    def merge_row_by_block(self, w, row, tid):
        a, sWeights, sSums = self.a, self.sWeights, self.sSums
        t = schedule.cut(a, w + 1, 0)
        b, kv_head, k = schedule.tile_place(a, t)
        begin, tokens = schedule.query_range(a, b)
        valid, token, h = schedule.row_place(a, k * a.cluster + row // 64, row % 64, tokens)
        if valid:
            count, lse2 = self.row_lse(w, t, row, tid % 32)  # every warp for itself
            for j in cutlass.range(tid, count, THREADS, unroll=1):
                sWeights[j] = self.weight(w, t, j, row, lse2)
            cute.arch.sync_threads()
            group, chunk = tid // (self.d_v // 4), tid % (self.d_v // 4)
            acc = cute.make_rmem_tensor((4,), Float32)
            acc.fill(0.0)
            for j in cutlass.range(group, count, self.groups, unroll=8):
                self.add_piece(acc, w, j, row, chunk, sWeights[j])
            if group > 0:
                cute.autovec_copy(acc, sSums[None, chunk, group - 1])
            cute.arch.sync_threads()
            if group == 0:
                for g in cutlass.range_constexpr(self.groups - 1):
                    for c in cutlass.range_constexpr(4):
                        acc[c] += sSums[c, chunk, g]
                self.store(acc, schedule.out_offset(a, b, begin + token, kv_head * a.group + h), chunk)
            if tid == 0:
                self.store_lse(lse2, b, begin + token, kv_head * a.group + h)


def slot_of(a, w, j):
    """Partial slot of piece j of the tile that part w begins: the last of part w, the first of the others."""
    return a.slots_per_part * (w + j) + (a.slots_per_part - 1) * (1 - min(j, 1))


def warp_reduce(value, op):
    for lanes in (16, 8, 4, 2, 1):
        value = op(value, cute.arch.shuffle_sync_bfly(value, lanes))
    return value
