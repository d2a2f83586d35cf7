"""TMA loads of Q and of the KV units, by one warp for each half of the columns.

Items in the order of the ring: for each piece first Q, then its units of 64 tokens. Where a loader is, it keeps in
shared memory (the cursor), because its warp also holds an accumulator and has no registers to spare; only the number of
the next item and its page, read one item ahead, stay in them.

A unit of a 64-token page is one box, whose halves the CTAs of a cluster load for each other. With pages of any other
size (`any_page`) a CTA loads its 64 / cluster rows of a unit as boxes of box_rows rows: one box of a larger page, or as
many as there are pages; then each lane holds the page number of its own box. TMA places its 128-byte swizzle by
address, so that a box of any number of rows lands right at the plain address of its first row.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Int16, Int32, Int64, Uint32, const_expr, min
from cutlass.cute.nvgpu import cpasync

from dsl_kernels.core import attended, schedule
from dsl_kernels.core.schedule_params import UNIT
from dsl_kernels.core.threads import opaque

SLICE_BYTES = 64 * 64 * 2

# The cursor: the next item's part, tile and unit; end of the piece; request and KV head of the tile; where the unit
# begins: column of the block table and row in that page (only with pages of any size).
PART, TILE, INDEX, END, REQUEST, HEAD, COLUMN, ROW, CURSOR = range(9)
Q_ITEM = -1  # unit index of the item that carries Q


class Loader:
    """Both halves' loaders; `half` (left or right columns of V; the right one loads RoPE too) is a run-time value.

    tma_q, tma_kv: the copies; mQ, mKV: what they copy from. With pages of any size KV is partitioned for each box.
    """

    def __init__(self, kernel, tma_q, mQ, tma_kv, mKV):
        self.kernel, self.a, self.bars, self.smem = kernel, kernel.a, kernel.bars, kernel.smem
        self.half_slices, self.rope = kernel.half_slices, kernel.rope
        self.latent = 2 * kernel.half_slices  # slices of the latent part; the RoPE slice comes behind them
        self.tma_q, self.tma_kv, self.mKV = tma_q, tma_kv, mKV
        slices = cute.group_modes(self.smem.sS, 0, 2)
        gQ = cute.group_modes(cute.local_tile(mQ, (64, 64), (None, None, None, None, None)), 0, 2)
        self.tQs, self.tQg = cpasync.tma_partition(tma_q, 0, cute.make_layout(1), slices, gQ)
        if const_expr(not kernel.any_page):
            self.tKs, self.tKg = self.partition_kv(self.smem.sS, mKV, kernel.rank)

    def partition_kv(self, slices, mKV, rank):
        """Destination (box, slice) and source (box, 0, slice of columns, KV head, block) of a CTA's part of 64 rows."""
        gKV = cute.group_modes(cute.local_tile(mKV, (64, 64), (None, None, None, None)), 0, 2)
        layout = cute.make_layout(self.kernel.cluster)
        return cpasync.tma_partition(self.tma_kv, rank, layout, cute.group_modes(slices, 0, 2), gKV)

    def partition_rows(self, row, at):
        """The same from `row` of the blocks on, to row `at` of the slots: a box alone, at its plain address."""
        slices = cute.make_tensor(self.smem.sPlain.iterator + at * 64, self.smem.sPlain.layout)
        return self.partition_kv(slices, cute.domain_offset((row, 0, 0, 0), self.mKV), 0)

    @cute.jit
    def write_cursor(self, half, part, tile, index, end, request, head, column, row):
        c = self.smem.sCursor
        with cute.arch.elect_one():
            c[PART, half], c[TILE, half], c[INDEX, half] = part, tile, index
            c[END, half], c[REQUEST, half], c[HEAD, half] = end, request, head
            if const_expr(self.kernel.any_page):
                c[COLUMN, half], c[ROW, half] = column, row
        cute.arch.sync_warp()

    @cute.jit
    def start(self, half, part, tile):
        """Puts the cursor before the first piece."""
        request, head, _ = schedule.locate_tile(self.a, tile)
        none = Int32(0)
        self.write_cursor(half, part, tile, Int32(Q_ITEM), none, request, head, none, none)

    @cute.jit
    def fetch_all(self, half, item, end, page):
        """Fetches the items from `item` to `end` (exclusive); returns what `fetch` is called with next."""
        while item < end:
            page = self.fetch(half, item, page)
            item += 1
        return item, page

    @cute.jit
    def fetch(self, half, item, page):
        """Waits until the slot of `item` is free in the whole cluster, starts its loads and steps the cursor.

        `page` is the number of the item's page (of the page of this lane's box); returns that of the next.
        """
        kernel, a = self.kernel, self.a
        if const_expr(kernel.any_page):
            half = opaque(half)  # or what follows from it takes registers outside
        part, tile, index, end, request, head = (self.smem.sCursor[i, half] for i in range(COLUMN))
        column, row = index, Int32(0)
        if const_expr(kernel.any_page):
            column, row = self.smem.sCursor[COLUMN, half], self.smem.sCursor[ROW, half]
        cute.arch.sync_warp()
        if part < a.num_parts:
            slot, phase = self.bars.slot_phase(item)
            bar = self.bars.full(slot)
            first = kernel.slices * slot + self.half_slices * half
            cute.arch.mbarrier_wait(self.bars.empty(slot, 0), phase ^ 1)
            if half == 1:
                cute.arch.mbarrier_wait(self.bars.empty(slot, 1), phase ^ 1)
            if index == Q_ITEM:
                _, _, tile_of_head = schedule.locate_tile(a, tile)
                # before the length is known: the page number takes as long to come
                column = schedule.first_unit(a, part, tile)
                if const_expr(kernel.any_page):
                    pages = column // a.units_per_page
                    row = (column - pages * a.units_per_page) * UNIT
                    column = pages * a.pages_per_unit
                page = self.page_number(request, self.lane_column(column))
                length = attended.length_of(a, request)
                count = self.load_q(half, bar, first, tile_of_head, head, request)
                units = attended.tile_units(a, request, length, count, tile_of_head, kernel.cluster)
                index, end = schedule.piece_units(a, part, tile, units)
            else:
                if const_expr(kernel.any_page):
                    self.load_boxes(half, bar, first, head, page, request, column, row)
                    row += UNIT
                    if row >= a.page_size:
                        column, row = column + a.pages_per_unit, Int32(0)
                else:
                    # by a shuffle, or the compiler waits for the number where it is asked for, to make it uniform
                    self.load_unit(half, bar, first, head, cute.arch.shuffle_sync(page, 0))
                    column = index + 1
                index += 1
                page = self.page_number(request, self.lane_column(column))
            if index >= end:
                part, tile = schedule.seek(a, part, tile + 1, kernel.step, kernel.cluster)
                request, head, _ = schedule.locate_tile(a, tile)
                index = Int32(Q_ITEM)
            self.write_cursor(half, part, tile, index, end, request, head, column, row)
        return page

    @cute.jit
    def lane_column(self, column):
        """Column of the block table for this lane's box of the unit that begins at `column`."""
        if const_expr(self.kernel.any_page):
            a = self.a
            if a.pages_per_unit > 1:
                column += self.kernel.rank * a.boxes + opaque(cute.arch.lane_idx())
        return column

    @cute.jit
    def page_number(self, request, column):
        """Entry of the block table, read ahead: behind the last page of a tile it is any entry, and not used."""
        a = self.a
        table = cute.make_tensor(a.block_table + Int64(request) * a.block_table_stride, cute.make_layout(2**30))
        return table[Int32(min(Uint32(column), Uint32(a.max_blocks - 1)))]  # a sum beyond 2^31 is large too

    @cute.jit
    def load_q(self, half, bar, first, tile_of_head, head, request):
        """This half of the CTA's row block of a tile; returns how many query tokens the request has. The map's box is
        block_tokens x block_heads rows, zeros beyond the tensor; rows behind the request's last are never stored.
        """
        a, atom, src, dst = self.a, self.tma_q, self.tQg, self.tQs
        block = tile_of_head * self.kernel.cluster + self.kernel.rank
        begin, count = schedule.query_range(a, request)
        group_of_tokens = schedule.divide(block, a.by_head_chunks)
        chunk, token = block - group_of_tokens * a.head_chunks, begin + group_of_tokens * a.block_tokens
        layer = 0 if schedule.by_request(a) else request  # all requests are one in variable-length queries
        with cute.arch.elect_one():
            row_bytes = SLICE_BYTES // 64 * self.slices_of(half)
            cute.arch.mbarrier_arrive_and_expect_tx(bar, a.block_heads * a.block_tokens * row_bytes)
        for j in cutlass.range_constexpr(self.half_slices):
            column = self.half_slices * half + j
            cute.copy(atom, src[None, chunk, column, token, head, layer], dst[None, first + j], tma_bar_ptr=bar)
        if const_expr(self.rope):
            if half == 1:
                last = dst[None, first + self.half_slices]
                cute.copy(atom, src[None, chunk, self.latent, token, head, layer], last, tma_bar_ptr=bar)
        return count

    def slices_of(self, half):
        """Slices that a half loads."""
        return self.half_slices + half if self.rope else self.half_slices

    @cute.jit
    def load_unit(self, half, bar, first, head, page):
        """This half of a unit that is a page of 64 tokens; a page number out of range reads as zeros."""
        src, dst = self.tKg, self.tKs
        with cute.arch.elect_one():
            cute.arch.mbarrier_arrive_and_expect_tx(bar, SLICE_BYTES * self.slices_of(half))
        for j in cutlass.range_constexpr(self.half_slices):
            self.copy_slice(src[None, 0, self.half_slices * half + j, head, page], dst[None, first + j], bar)
        if const_expr(self.rope):
            if half == 1:
                self.copy_slice(src[None, 0, self.latent, head, page], dst[None, first + self.half_slices], bar)

    @cute.jit
    def load_boxes(self, half, bar, first, head, page, request, column, row):
        """This half of this CTA's rows of a unit that begins at `row` of page number `column`."""
        kernel, a = self.kernel, self.a
        behind = page  # of box 32 + lane: there are 64 boxes with pages of one token and no cluster
        if const_expr(kernel.cluster == 1):
            if a.boxes > 32:
                behind = self.page_number(request, self.lane_column(column) + 32)
        with cute.arch.elect_one():
            cute.arch.mbarrier_arrive_and_expect_tx(bar, SLICE_BYTES * self.slices_of(half))
        for box in cutlass.range(a.boxes, unroll=1):
            number = cute.arch.shuffle_sync(page if box < 32 else behind, box % 32)
            at = (kernel.rank * a.boxes + box) * a.box_rows  # row in the unit
            dst, src = self.partition_rows(row + at if a.pages_per_unit == 1 else 0, at)
            for j in cutlass.range_constexpr(self.half_slices):
                self.copy_slice(src[None, 0, self.half_slices * half + j, head, number], dst[None, first + j], bar)
            if const_expr(self.rope):
                if half == 1:
                    last = dst[None, first + self.half_slices]
                    self.copy_slice(src[None, 0, self.latent, head, number], last, bar)

    @cute.jit
    def copy_slice(self, src, dst, bar):
        atom, policy = self.tma_kv, self.a.kv_policy
        if const_expr(self.kernel.cluster > 1):
            every = Int16((1 << self.kernel.cluster) - 1)
            cute.copy(atom, src, dst, tma_bar_ptr=bar, mcast_mask=every, cache_policy=policy)
        else:
            cute.copy(atom, src, dst, tma_bar_ptr=bar, cache_policy=policy)
