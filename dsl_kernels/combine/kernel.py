"""Merges the partial results of split tiles into the output (FlashDecoding's reduction, in base 2).

Every CTA looks through the schedule for parts that begin a tile they do not end; the rows of those tiles are dealt out
over the grid, so the work is balanced however the tiles were split. With many rows a warp merges one; with few rows,
which have many pieces then, the whole CTA merges one, or some of its columns. Latency is what counts here: what follows
from the schedule comes before the wait for dense_decode, loads are started before the weights are known, and code is
short, since instructions too come from memory the first time.
Partials: core/schedule_params.py.
"""

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Float16, Float32, Int32, Int64, const_expr, max, min

from dsl_kernels.core import schedule, split_tiles
from dsl_kernels.core.dtypes import DTYPES
from dsl_kernels.core.params import Named
from dsl_kernels.core.schedule_params import FACT_LEFT, FACT_LSE, FACT_RIGHT, FACTS, MAX_SPLITS
from dsl_kernels.core.sinks import sink_of, with_sink
from dsl_kernels.core.threads import warp_reduce

from .config import THREADS, WARPS, Variant
from .params import PARAMS

IN_FLIGHT = 8  # loads that a thread starts before it uses the first, where a CTA merges a row
LOG_MAX_CHUNKS = 3  # log2 of the most chunks of columns in which several CTAs merge a row


class Combine:
    def __init__(self, variant: Variant):
        self.dtype = DTYPES[variant.elements.out]
        self.d_v, self.vector = variant.d_v, variant.vector
        self.log_row_threads = (variant.d_v // variant.vector).bit_length() - 1  # threads that load a row
        self.groups = THREADS >> self.log_row_threads  # of them
        self.warp_vectors = variant.d_v // (32 * variant.vector)  # that a lane loads of a row
        self.warp_pieces = 4  # that a lane has in flight
        self.threads = variant.threads
        self.cluster = 1

    @cute.jit
    def __call__(self, args: tuple, stream: cuda.CUstream):
        @cute.struct
        class Storage:
            sums: cute.struct.Align[cute.struct.MemRange[Float32, THREADS * self.vector], 16]
            weights: cute.struct.MemRange[Float32, 2 * MAX_SPLITS]
            reduced: cute.struct.MemRange[Float32, 2 * WARPS]
            begins: cute.struct.MemRange[Int32, THREADS]
            ends: cute.struct.MemRange[Int32, THREADS]
            tiles: cute.struct.MemRange[Int32, THREADS]
            queries: cute.struct.MemRange[Int32, THREADS]
            tokens: cute.struct.MemRange[Int32, THREADS]
            found: cute.struct.MemRange[Int32, WARPS]

        self.storage = Storage
        self.shared_bytes = Storage.size_in_bytes()
        self.kernel(args).launch(grid=(1, 1, 1), block=(self.threads, 1, 1), stream=stream, min_blocks_per_mp=1)

    @cute.kernel
    def kernel(self, args: tuple):
        self.a = a = Named(PARAMS, args)
        tid, _, _ = cute.arch.thread_idx()
        bid, _, _ = cute.arch.block_idx()
        grid, _, _ = cute.arch.grid_dim()
        st = cutlass.memory.SmemAllocator().allocate(self.storage)
        self.sSums = st.sums.get_tensor(cute.make_layout(THREADS * self.vector))
        self.sWeights = st.weights.get_tensor(cute.make_layout((2, MAX_SPLITS)))
        self.sReduced = st.reduced.get_tensor(cute.make_layout((WARPS, 2)))
        # of the split tiles, in order: the part that begins it, the one that ends it, the tile; with variable-length
        # queries also the first query token of its request and how many there are
        lists = [x.get_tensor(cute.make_layout(THREADS)) for x in (st.begins, st.ends, st.tiles, st.queries, st.tokens)]
        self.sBegins, self.sEnds, self.sTiles, self.sQueries, self.sTokens = lists
        self.sFound = st.found.get_tensor(cute.make_layout(WARPS))
        cute.arch.griddepcontrol_launch_dependents()
        block_rows = a.block_heads * a.block_tokens
        rows = block_rows * a.cluster
        for base in cutlass.range(0, a.num_parts, THREADS, unroll=1):
            found = split_tiles.find(self, base, tid)
            by_warp = found * rows > a.rows_of_blocks
            log_chunks = Int32(0)
            while (log_chunks < LOG_MAX_CHUNKS) and (found * rows << (log_chunks + 1) <= grid):
                log_chunks += 1
            first, step = bid, grid
            if by_warp:
                first, step, log_chunks = bid + (tid >> 5) * grid, WARPS * grid, Int32(0)
            for c in cutlass.range(first, found * rows << log_chunks, step, unroll=1):
                i = schedule.divide(c >> log_chunks, a.by_tile_rows)
                row = (c >> log_chunks) - i * rows
                rank = schedule.divide(row, a.by_block_rows)
                row -= rank * block_rows
                part, tile = self.sBegins[i], self.sTiles[i]
                request, kv_head, tile_of_head = schedule.locate_tile(a, tile)
                begin, tokens = split_tiles.query_range(self, i)
                valid, token, h = schedule.locate_row(a, tile_of_head * a.cluster + rank, row, tokens)
                if valid:
                    token, h, row = begin + token, h + kv_head * a.group, row + 64 * rank
                    where = schedule.out_offset(a, request, token, h)
                    count = min(max(self.sEnds[i] - part + 1, 1), a.num_parts - part)  # whatever the cuts are
                    if a.num_parts > THREADS:  # the end may be among the next parts
                        count = split_tiles.count_pieces(a, part, tile, tid & 31)
                    if by_warp:
                        self.merge_row_by_warp(part, count, row, tid & 31, where, (request, token, h))
                    else:
                        chunk = c & ((1 << log_chunks) - 1)
                        self.merge_row_by_block(part, count, row, tid, log_chunks, chunk, where, (request, token, h))
            cute.arch.sync_threads()
        wait_for_partials()  # what comes after this kernel comes after dense_decode too

    @cute.jit
    def partial_row(self, part, j, row):
        """Number of a row of piece j of the tile that a part begins."""
        return Int64(slot_of(self.a, part, j)) * (64 * self.a.cluster) + row

    @cute.jit
    def facts(self, part, j, count, row):
        """(Log-sum-exp of piece j, what 1.0 in each half of its row stands for); -inf: empty, or no such piece."""
        found = cute.make_rmem_tensor((FACTS,), Float32)
        where = self.a.partial_facts + cute.assume(self.partial_row(part, min(j, count - 1), row) * FACTS, divby=FACTS)
        cute.autovec_copy(cute.make_tensor(where, cute.make_layout(FACTS)), found)
        return found[FACT_LSE] if j < count else -Float32.inf, found[FACT_LEFT], found[FACT_RIGHT]

    @cute.jit
    def row_lse(self, part, count, row, lane, first):
        """One warp: base-2 log-sum-exp over the pieces of a row, -inf when no token was attended.

        first: the log-sum-exps of the pieces lane and lane + 32.
        """
        top = cute.arch.fmax(first[0], first[1])
        for j in cutlass.range(64 + lane, count, 32, unroll=1):
            top = cute.arch.fmax(top, self.facts(part, j, count, row)[0])
        top = warp_reduce(top, cute.arch.fmax)
        shift = 0.0 if top == -Float32.inf else top
        total = cute.math.exp2(first[0] - shift, fastmath=True) + cute.math.exp2(first[1] - shift, fastmath=True)
        for j in cutlass.range(64 + lane, count, 32, unroll=1):
            total += cute.math.exp2(self.facts(part, j, count, row)[0] - shift, fastmath=True)
        return top + cute.math.log2(warp_reduce(total, lambda x, y: x + y))

    @cute.jit
    def load(self, x: cute.Tensor, part, j, row, column):
        """Starts to load a vector of columns of piece j. What an empty piece holds is not used."""
        where = self.a.partial + cute.assume(self.partial_row(part, j, row) * self.d_v + column, divby=self.vector)
        cute.autovec_copy(cute.make_tensor(where, cute.make_layout(self.vector)), x)

    @cute.jit
    def add(self, acc: cute.Tensor, x: cute.Tensor, weight):
        """Not with weight 0, since an empty piece may hold NaN."""
        y = cute.make_rmem_tensor((self.vector,), Float32)
        y.store(x.load().to(Float32))
        if weight != 0.0:
            for c in cutlass.range_constexpr(self.vector):
                acc[c] += y[c] * weight

    @cute.jit
    def store(self, values: cute.Tensor, where, align: cutlass.Constexpr):
        """Neighbouring columns of an output row; `where` is a multiple of `align`."""
        a, n = self.a, cute.size(values)
        if a.out_is_float != 0:
            wide = cute.recast_ptr(a.out, dtype=Float32) + cute.assume(where, divby=align)
            cute.autovec_copy(values, cute.make_tensor(wide, cute.make_layout(n)))
        else:
            rounded = cute.make_rmem_tensor((n,), self.dtype)
            rounded.store(values.load().to(self.dtype))
            cute.autovec_copy(rounded, cute.make_tensor(a.out + cute.assume(where, divby=align), cute.make_layout(n)))

    @cute.jit
    def store_lse(self, lse2, request, token, head):
        a, wanted = self.a, self.a.lse.toint() != 0
        if wanted:
            dst = cute.make_tensor(a.lse + schedule.lse_offset(a, request, token, head), cute.make_layout(1))
            dst[0] = lse2 * a.lse_factor if lse2 != -Float32.inf else a.empty_lse

    @cute.jit
    def merge_row_by_warp(self, part, count, row, lane, where, whose: tuple):
        """All columns of a row, its pieces in order, and its log-sum-exp. whose: its request, query token and head."""
        vectors, pieces = self.warp_vectors, self.warp_pieces
        x = cute.make_rmem_tensor(cute.make_layout((self.vector, vectors, pieces)), Float16)
        acc = cute.make_rmem_tensor(cute.make_layout((self.vector, vectors)), Float32)
        acc.fill(0.0)
        wait_for_partials()
        self.load_pieces(x, part, 0, count, row, lane)
        lse, left, right = self.facts(part, lane, count, row)
        second, _, _ = self.facts(part, lane + 32, count, row)
        lse2 = self.row_lse(part, count, row, lane, (lse, second))
        if lane == 0:
            self.store_lse(lse2, *whose)
        total = with_sink(lse2, sink_of(self.a, whose[2]))
        left, right = weight(lse, total, left), weight(lse, total, right)
        for base in cutlass.range(0, count, pieces, unroll=1):
            if ((base & 31) == 0) and (base > 0):
                lse, left, right = self.facts(part, base + lane, count, row)
                left, right = weight(lse, total, left), weight(lse, total, right)
            for i in cutlass.range_constexpr(pieces):
                of_left = cute.arch.shuffle_sync(left, (base + i) & 31)
                of_right = cute.arch.shuffle_sync(right, (base + i) & 31)
                if const_expr(vectors == 2):
                    self.add(acc[None, 0], x[None, 0, i], of_left)
                    self.add(acc[None, 1], x[None, 1, i], of_right)
                else:
                    self.add(acc[None, 0], x[None, 0, i], of_left if lane < 16 else of_right)
            self.load_pieces(x, part, base + pieces, count, row, lane)
        for v in cutlass.range_constexpr(vectors):
            self.store(acc[None, v], where + (32 * v + lane) * self.vector, self.vector)

    @cute.jit
    def load_pieces(self, x: cute.Tensor, part, base, count, row, lane):
        """Starts to load this lane's columns of the next pieces from `base` on."""
        for i in cutlass.range_constexpr(self.warp_pieces):
            if base + i < count:
                for v in cutlass.range_constexpr(self.warp_vectors):
                    self.load(x[None, v, i], part, base + i, row, (32 * v + lane) * self.vector)

    @cute.jit
    def merge_row_by_block(self, part, count, row, tid, log_chunks, chunk, where, whose: tuple):
        """Columns of one chunk of a row, of which a group of threads takes every `groups`-th piece; the first also the
        row's log-sum-exp. whose: as above.
        """
        sWeights, columns = self.sWeights, self.d_v >> log_chunks
        group, groups = tid >> (self.log_row_threads - log_chunks), self.groups << log_chunks
        column = chunk * columns + (tid & ((columns // self.vector) - 1)) * self.vector
        half = column // (self.d_v // 2)
        x = cute.make_rmem_tensor(cute.make_layout((self.vector, IN_FLIGHT)), Float16)
        x.fill(0.0)  # or what is not loaded would be kept from row to row
        acc = cute.make_rmem_tensor((self.vector,), Float32)
        acc.fill(0.0)
        wait_for_partials()
        for i in cutlass.range_constexpr(IN_FLIGHT):
            if group + i * groups < count:
                self.load(x[None, i], part, group + i * groups, row, column)
        lse2 = self.weigh(part, count, row, tid, whose[2])
        if tid + chunk == 0:
            self.store_lse(lse2, *whose)
        for i in cutlass.range_constexpr(IN_FLIGHT):
            if group + i * groups < count:
                self.add(acc, x[None, i], sWeights[half, group + i * groups])
        for j in cutlass.range(group + IN_FLIGHT * groups, count, groups, unroll=1):
            self.load(x[None, 0], part, j, row, column)
            self.add(acc, x[None, 0], sWeights[half, j])
        cute.autovec_copy(acc, cute.local_tile(self.sSums, (self.vector,), (tid,)))
        cute.arch.sync_threads()
        if tid < columns:
            total = cute.make_rmem_tensor((1,), Float32)
            total[0] = 0.0
            for g in cutlass.range(min(groups, count), unroll=8):
                total[0] += self.sSums[g * columns + tid]
            self.store(total, where + chunk * columns + tid, 1)
        cute.arch.sync_threads()

    @cute.jit
    def weigh(self, part, count, row, tid, head):
        """The whole CTA: weights of the pieces of a row to shared memory; returns its base-2 log-sum-exp."""
        sWeights = self.sWeights
        lse, left, right = self.facts(part, tid, count, row)
        second, _, _ = self.facts(part, tid + THREADS, count, row)
        top = self.block_reduce(0, tid, cute.arch.fmax(lse, second), cute.arch.fmax, -Float32.inf)
        shift = 0.0 if top == -Float32.inf else top
        total = cute.math.exp2(lse - shift, fastmath=True) + cute.math.exp2(second - shift, fastmath=True)
        lse2 = top + cute.math.log2(self.block_reduce(1, tid, total, lambda x, y: x + y, 0.0))
        total = with_sink(lse2, sink_of(self.a, head))
        if tid < count:
            sWeights[0, tid], sWeights[1, tid] = weight(lse, total, left), weight(lse, total, right)
        for j in cutlass.range(tid + THREADS, count, THREADS, unroll=1):  # read again: seldom, and registers are few
            lse, left, right = self.facts(part, j, count, row)
            sWeights[0, j], sWeights[1, j] = weight(lse, total, left), weight(lse, total, right)
        cute.arch.sync_threads()
        return lse2

    @cute.jit
    def block_reduce(self, which, tid, value, op: cutlass.Constexpr, none: cutlass.Constexpr):
        """The values of all threads joined by `op`, in every thread; by way of one of two arrays."""
        own, sReduced = warp_reduce(value, op), self.sReduced
        if tid % 32 == 0:
            sReduced[tid // 32, which] = own
        cute.arch.sync_threads()
        return warp_reduce(sReduced[tid % WARPS, which] if tid % 32 < WARPS else Float32(none), op)


@cute.jit
def wait_for_partials():
    """Until dense_decode is done. The schedule was there when it began, so all that follows from it comes before."""
    cute.arch.griddepcontrol_wait()


@cute.jit
def weight(lse, total, unit):
    """What the stored half of a piece counts for, of all with the sink. That of an empty piece may hold anything."""
    return 0.0 if lse == -Float32.inf else cute.math.exp2(lse - total, fastmath=True) * unit


def slot_of(a, part, j):
    """Partial slot of piece j of the tile that a part begins: the last of that part, the first of the others."""
    return a.slots_per_part * (part + j) + (a.slots_per_part - 1) * (1 - min(j, 1))
