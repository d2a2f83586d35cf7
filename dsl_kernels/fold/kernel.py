"""Folds what batch-invariant calls stored of tiles that are cut, into the output.

The items of such a tile, pieces or nodes of them, lie in slots one behind another, in the order of the fold. A warp
takes a block of 8 columns of a stripe of rows, as a warp of dense_decode held it (core/slots.py), so that loads are of
whole lines, and folds it in registers with the same arithmetic: pieces to nodes, nodes to the result. Many
warps hide the time that loads take.
"""

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64, max, min

from dsl_kernels.core import attended, pieces, schedule, sinks, slots, split_tiles
from dsl_kernels.core.dtypes import DTYPES
from dsl_kernels.core.folding import NEUTRAL, folded, weigh
from dsl_kernels.core.fragments import row_of
from dsl_kernels.core.params import Named
from dsl_kernels.core.schedule_params import CUTS_ARE_READ, FACTS, LOG_NODE_PIECES, NODE_PIECES, STRIPE

from .config import BLOCKS_PER_SM, THREADS, WARPS, Variant
from .params import PARAMS

ITEMS = 4  # that are loaded together


class Fold:
    def __init__(self, variant: Variant):
        self.dtype = DTYPES[variant.elements.out]
        self.d_v = variant.d_v
        self.log_half_blocks = (variant.d_v // 16).bit_length() - 1  # blocks of a half
        self.threads = variant.threads
        self.cluster = 1

    @cute.jit
    def __call__(self, args: tuple, stream: cuda.CUstream):
        @cute.struct
        class Storage:
            begins: cute.struct.MemRange[Int32, THREADS]
            ends: cute.struct.MemRange[Int32, THREADS]
            tiles: cute.struct.MemRange[Int32, THREADS]
            queries: cute.struct.MemRange[Int32, THREADS]
            tokens: cute.struct.MemRange[Int32, THREADS]
            found: cute.struct.MemRange[Int32, WARPS]

        self.storage = Storage
        self.shared_bytes = Storage.size_in_bytes()
        shape = {"grid": (1, 1, 1), "block": (self.threads, 1, 1)}
        at_once = {"min_blocks_per_mp": BLOCKS_PER_SM, "preferred_smem_carveout": 0}  # the latter is the launcher's
        self.kernel(args).launch(**shape, **at_once, stream=stream)

    @cute.kernel
    def kernel(self, args: tuple):
        self.a = a = Named(PARAMS, args, **CUTS_ARE_READ)
        tid, _, _ = cute.arch.thread_idx()
        bid, _, _ = cute.arch.block_idx()
        grid, _, _ = cute.arch.grid_dim()
        st = cutlass.memory.SmemAllocator().allocate(self.storage)
        lists = [x.get_tensor(cute.make_layout(THREADS)) for x in (st.begins, st.ends, st.tiles, st.queries, st.tokens)]
        self.sBegins, self.sEnds, self.sTiles, self.sQueries, self.sTokens = lists
        self.sFound = st.found.get_tensor(cute.make_layout(WARPS))
        cute.arch.griddepcontrol_launch_dependents()
        found = split_tiles.find(self, 0, tid)  # there are no more parts than threads
        # a warp's number among those of a block moves slowest, so that few tasks are spread over all SMs
        stripes, first = slots.rows_of(a) // STRIPE * a.cluster, bid + tid // 32 * grid
        tasks = found * stripes << (self.log_half_blocks + 1)
        for task in cutlass.range(first, tasks, grid * WARPS, unroll=1):
            rest = task >> (self.log_half_blocks + 1)
            i = rest // stripes
            half = (task >> self.log_half_blocks) & 1
            self.fold_block(i, rest - i * stripes, half, task & ((1 << self.log_half_blocks) - 1), tid % 32)
        cute.arch.griddepcontrol_wait()  # what comes after this kernel comes after dense_decode too

    @cute.jit
    def items_of(self, i):
        """(First slot, number) of the items of the i-th cut tile; and whether they are pieces."""
        a = self.a
        part = self.sBegins[i]
        last = min(max(self.sEnds[i], part), a.num_parts - 1)  # whatever the cuts are
        shift = Int32(0) if schedule.element(a.first_slot, a.num_parts + 1) == 0 else Int32(LOG_NODE_PIECES)
        first = schedule.element(a.first_slot, part + 1) - self.items_before(part + 1, shift)
        end = schedule.element(a.first_slot, last + 1) - self.items_before(last + 1, shift)
        quanta = schedule.divide(attended.units_of(a.capacity) + a.piece_units - 1, a.by_piece_units)
        first = min(max(first, 0), a.slots - 1)
        count = min(min(max(end - first, 1), pieces.pieces_of(max(quanta, 1))), a.slots - first)
        return first, count, shift == 0

    @cute.jit
    def items_before(self, part, shift):
        """Of the tile that a part begins in, those before it."""
        _, unit = schedule.cut(self.a, part)
        quanta = schedule.divide(unit, self.a.by_piece_units)
        return pieces.items_between(Int32(0), quanta, shift)

    @cute.jit
    def fold_block(self, i, stripe, half, block, lane):
        """A block of columns of the i-th cut tile; `stripe` of those of all CTAs of the cluster."""
        a = self.a
        first, count, are_pieces = self.items_of(i)
        rows = slots.rows_of(a)
        rank = STRIPE * stripe // rows
        row = STRIPE * stripe - rank * rows
        values, facts = slots.locate(a, first * a.cluster + rank, half, row, lane, self.d_v)
        values += 4 * slots.BLOCK * block
        facts += 4 * FACTS * row_of(lane)
        x = cute.make_rmem_tensor(cute.make_layout((4, ITEMS)), Float32)
        lse = cute.make_rmem_tensor(cute.make_layout((2, ITEMS)), Float32)
        node, node_lse = cute.make_rmem_tensor((4,), Float32), cute.make_rmem_tensor((2,), Float32)
        result, result_lse = cute.make_rmem_tensor_like(node), cute.make_rmem_tensor_like(node_lse)
        clear(result, result_lse)
        cute.arch.griddepcontrol_wait()
        clear(node, node_lse)
        for base in cutlass.range(0, count, ITEMS, unroll=1):
            self.load(x, lse, values, facts, base, count)
            for j in cutlass.range_constexpr(ITEMS):
                fold(node, node_lse, x[None, j], lse[None, j])
                number = base + j
                ends = ((number & (NODE_PIECES - 1)) == NODE_PIECES - 1) or (number == count - 1)
                if ends or not are_pieces:
                    fold(result, result_lse, node, node_lse)
                    clear(node, node_lse)
        self.store(result, result_lse, i, rank, row + row_of(lane), half, block, lane)

    @cute.jit
    def load(self, x: cute.Tensor, lse: cute.Tensor, values, facts, base, count):
        """The items from `base` on; those from `count` on are empty."""
        rows = slots.rows_of(self.a) * self.a.cluster
        x.fill(NEUTRAL)
        lse.fill(-Float32.inf)
        for j in cutlass.range_constexpr(ITEMS):
            if base + j < count:
                skip = Int64(base + j) * rows
                cute.autovec_copy(floats(values + 4 * self.d_v * skip, 4, 16), x[None, j])
                own = floats(facts + 4 * FACTS * skip, 8 * FACTS + 1, 4)
                lse[0, j], lse[1, j] = own[0], own[8 * FACTS]

    @cute.jit
    def store(self, x: cute.Tensor, lse: cute.Tensor, i, rank, row, half, block, lane):
        """Two columns of two rows; and their log-sum-exps by one lane for each row."""
        a = self.a
        request, kv_head, tile_of_head = schedule.locate_tile(a, self.sTiles[i])
        begin, tokens = split_tiles.query_range(self, i)
        wanted = (a.lse.toint() != 0) and (half == 0) and (block == 0) and ((lane & 3) == 0)
        for r in cutlass.range_constexpr(2):
            valid, token, h = schedule.locate_row(a, tile_of_head * a.cluster + rank, row + 8 * r, tokens)
            if valid:
                token, h = begin + token, h + kv_head * a.group
                empty = lse[r] == -Float32.inf
                factor = Float32(-1.0) if empty else sinks.share(a, h, lse[r])  # an empty row is NEUTRAL
                where = schedule.out_offset(a, request, token, h) + self.d_v // 2 * half + 8 * block + 2 * (lane & 3)
                pair = cute.make_rmem_tensor((2,), Float32)
                pair[0], pair[1] = x[2 * r] * factor, x[2 * r + 1] * factor
                self.store_pair(pair, where)
                if wanted:
                    to = cute.make_tensor(a.lse + schedule.lse_offset(a, request, token, h), cute.make_layout(1))
                    to[0] = a.empty_lse if empty else lse[r] * a.lse_factor

    @cute.jit
    def store_pair(self, pair: cute.Tensor, where):
        a = self.a
        if a.out_is_float != 0:
            wide = cute.recast_ptr(a.out, dtype=Float32) + cute.assume(where, divby=2)
            cute.autovec_copy(pair, cute.make_tensor(wide, cute.make_layout(2)))
        else:
            rounded = cute.make_rmem_tensor((2,), self.dtype)
            rounded.store(pair.load().to(self.dtype))
            cute.autovec_copy(rounded, cute.make_tensor(a.out + cute.assume(where, divby=2), cute.make_layout(2)))


def clear(rows, lse):
    """Makes rows empty."""
    rows.fill(NEUTRAL)
    lse.fill(-Float32.inf)


@cute.jit
def fold(carried: cute.Tensor, carried_lse: cute.Tensor, x: cute.Tensor, lse: cute.Tensor):
    """x behind what is carried, in place; a thread's two rows, two columns."""
    for r in cutlass.range_constexpr(2):
        of_c, of_x, carried_lse[r] = weigh(carried_lse[r], lse[r])
        for i in cutlass.range_constexpr(2 * r, 2 * r + 2):
            carried[i] = folded(carried[i], of_c, x[i], of_x)


def floats(address, size, align):
    where = cute.make_ptr(Float32, address, cute.AddressSpace.gmem, assumed_align=align)
    return cute.make_tensor(where, cute.make_layout(size))
