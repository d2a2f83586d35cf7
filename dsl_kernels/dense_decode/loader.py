"""TMA loads of Q and of the KV units, by one warp for each half of the columns.

Items in the order of the ring: for each piece first Q, if it has its own, then its units of 64 tokens. Where a loader
is, it keeps in shared memory (the cursor), because its warp also holds an accumulator and has no registers to spare;
only the numbers of the next item, its piece and its page, read one item ahead, stay in them. Which pieces there are the
records say (work.py); the right loader of rank 0 is the reader, who writes them.

A unit of a 64-token page is one box, whose halves the CTAs of a cluster load for each other. With pages of any other
size (`any_page`) a CTA loads its 64 / cluster rows of a unit as boxes of box_rows rows, the largest power of two that
divides the page size and those rows, so that no box lies in two pages; each lane holds the page number of its own box.
TMA places its 128-byte swizzle by address, so that a box of any number of rows lands right at the plain address of its
first row.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Int16, Int32, Int64, Uint32, const_expr, min
from cutlass.cute.nvgpu import cpasync

from dsl_kernels.core import schedule
from dsl_kernels.core.schedule_params import UNIT
from dsl_kernels.core.threads import opaque

from . import work
from .config import CURSOR
from .params import LOG_INVERSE
from .queries import SLICE_BYTES, Queries

# The cursor: the next item's unit; end of the piece; request and KV head of the tile, of the reader before a piece its
# number in the tile, part and tile; where the unit begins: column of the block table and row in that page (only with
# pages of any size; with lengths near 2^31 the row wraps behind the last unit, of which nothing is attended).
INDEX, END, REQUEST, HEAD, COLUMN, ROW = range(CURSOR)
Q_ITEM, DONE = -1, -2  # unit where a piece begins, with Q if it has its own; no item is left


class Loader(Queries):
    """Both halves' loaders; `half` (left or right columns of V; the right one loads RoPE too) is a run-time value.

    tma_q, mQ: see Queries; tma_kv: the copy of KV; mKV: what it copies from. With pages of any size KV is partitioned
    for each box.
    """

    READER = work.Reader

    def __init__(self, kernel, tma_q, mQ, tma_kv, mKV):
        super().__init__(kernel, tma_q, mQ)
        self.reader = self.READER(kernel)
        self.tma_kv, self.mKV = tma_kv, mKV
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
    def write_cursor(self, half, index, end, request, head, column, row):
        c = self.smem.sCursor
        with cute.arch.elect_one():
            c[INDEX, half], c[END, half], c[REQUEST, half], c[HEAD, half] = index, end, request, head
            if const_expr(self.kernel.any_page):
                c[COLUMN, half], c[ROW, half] = column, row
        cute.arch.sync_warp()

    @cute.jit
    def start(self, half):
        """Puts the cursor before the first piece."""
        kernel, none = self.kernel, Int32(0)
        part, tile = schedule.seek(self.a, kernel.first_part, none, kernel.step, kernel.blocks, kernel.lane_apart)
        self.write_cursor(half, Int32(Q_ITEM), Int32(self.reader.FIRST), part, tile, none, none)

    @cute.jit
    def fetch_all(self, half, item, end, piece, page):
        """Fetches the items from `item` to `end` (exclusive); returns what `fetch` is called with next."""
        while item < end:
            piece, page = self.fetch(half, item, piece, page)
            item += 1
        return item, piece, page

    @cute.jit
    def fetch(self, half, item, piece, page):
        """Waits until the slot of `item` is free in the whole cluster, starts its loads and steps the cursor.

        `piece` is the number of the item's piece and `page` of its page (of the page of this lane's box); returns those
        of the next.
        """
        kernel, a = self.kernel, self.a
        if const_expr(kernel.any_page):
            half = opaque(half)  # or what follows from it takes registers outside
        index, end, request, head = (self.smem.sCursor[i, half] for i in range(COLUMN))
        column, row = index, Int32(0)
        if const_expr(kernel.any_page):
            column, row = self.smem.sCursor[COLUMN, half], self.smem.sCursor[ROW, half]
        cute.arch.sync_warp()
        if index != DONE:
            slot, phase = self.bars.slot_phase(item)
            bar = self.bars.full(slot)
            first = kernel.slices * slot + self.half_slices * half
            cute.arch.mbarrier_wait(self.bars.empty(slot, 0), phase ^ 1)
            if half == 1:
                cute.arch.mbarrier_wait(self.bars.empty(slot, 1), phase ^ 1)
            over = index == Q_ITEM  # with the item
            if over:
                found = self.begin_piece(half, bar, first, piece, request, head, end)
                index, end, request, head, column, row, page, over = found
            if not over:
                if const_expr(kernel.any_page):
                    self.load_boxes(half, bar, first, head, page, request, column, row)
                    column, row = column + a.whole_pages, row + a.rows_beyond
                    if row >= a.page_size:
                        column, row = column + 1, row - a.page_size
                else:
                    self.load_unit(half, bar, first, head, cute.arch.shuffle_sync(page, 0))
                    column = index + 1
                page = self.page_number(request, self.lane_column(column, row))
                if item == 1:  # loaded without a record: how many more there are
                    record = self.bars.wait_for_work(piece)
                    index = self.smem.sWork[work.FIRST_UNIT, record]
                    end = index + self.smem.sWork[work.UNITS, record]
                index += 1
                if index >= end:
                    index = Int32(Q_ITEM) if end > 0 else Int32(DONE)
                    if self.reads(half):
                        record = self.bars.wait_for_work(piece)  # its own record may be on its way still
                        request, head, end = self.reader.next_piece(record, end)
                    piece += 1
            self.write_cursor(half, index, end, request, head, column, row)
        return piece, page

    @cute.jit
    def reads(self, half):
        """Whether this loader is the reader."""
        return (half == 1) and (self.kernel.rank == 0)

    @cute.jit
    def begin_piece(self, half, bar, first, piece, part, tile, number):
        """Loads Q of a piece, if there is one and it has its own; returns the cursor at its first unit, that unit's
        page, and whether the item is done with. The reader's `part`, `tile` and `number` count, and those of any loader
        before the first record.
        """
        kernel, a, sWork = self.kernel, self.a, self.smem.sWork
        unit, query, count, end, page, length = (Int32(0) for _ in range(6))
        there = (part < a.num_parts) or (piece == 0)  # of the first piece Q is loaded in any case
        reads = self.reads(half) and (piece > 0)
        if reads or (piece == 0):
            tile = min(tile, a.num_tiles - 1)
            unit = schedule.first_unit(a, min(part, a.num_parts - 1), tile)
            unit = self.planned_unit(unit, number) + self.reader.first_unit_now(tile)
        else:
            record = self.bars.wait_for_work(piece)
            tile, unit, query = sWork[work.TILE, record], sWork[work.FIRST_UNIT, record], sWork[work.QUERY, record]
            end = unit + sWork[work.UNITS, record]
            there = end > 0
            number = self.number_of(record, number)
        request, head, tile_of_head = schedule.locate_tile(a, tile)
        column, row = unit, Int32(0)
        if const_expr(kernel.any_page):
            token = unit * UNIT  # below 2^31: that of a unit that there is
            column = schedule.divide(token, a.by_page)
            row = token - column * a.page_size
        if there:
            # before the length is known: the page number takes as long to come
            page = self.page_number(request, self.lane_column(column, row))
        if reads:
            length, query, count = self.reader.look_up(request)
        elif piece == 0:
            query, _ = schedule.query_range(a, request)
        own_q = self.has_own_q(number)
        if there and own_q:
            self.load_q(half, bar, first, tile_of_head, head, request, query)
        if reads:
            unit, end = self.reader.publish(piece, part, tile, number, (length, query, count))
        return unit if there else Int32(DONE), end, request, head, column, row, page, own_q or not there

    # of batch-invariant calls, where it matters which piece of a tile it is: invariant_loader.py

    def planned_unit(self, unit, _number):
        return unit

    def number_of(self, _record, number):
        return number

    def has_own_q(self, _number):
        return True

    @cute.jit
    def lane_column(self, column, row, skipped: cutlass.Constexpr = 0):
        """Column of the block table for this lane's box, the first `skipped` apart, of the unit that begins at `row` of
        `column`.
        """
        if const_expr(self.kernel.any_page):
            box = self.kernel.rank * self.a.boxes + self.kernel.lane_apart(column) + skipped
            column += self.pages_in(row + box * self.a.box_rows)
        return column

    @cute.jit
    def pages_in(self, rows):
        """Whole pages in so many rows, which are those before a row of a unit from the begin of its first page on."""
        a = self.a
        pages = Int32(rows >= a.page_size)  # such a page is no smaller than a unit
        if a.page_size < UNIT:
            pages = rows * a.page_inverse >> LOG_INVERSE
        return pages

    @cute.jit
    def page_number(self, request, column):
        """Entry of the block table, read ahead: behind the last page of a tile it is any entry, and not used. Where a
        unit is a page, lane 0 has it alone: a number that all load is waited for on the spot, to make it uniform.
        """
        a, entry = self.a, Int32(0)
        if self.kernel.any_page or (self.kernel.lane(column) == 0):
            table = cute.make_tensor(a.block_table + Int64(request) * a.block_table_stride, cute.make_layout(2**30))
            entry = table[Int32(min(Uint32(column), Uint32(a.max_blocks - 1)))]  # a sum beyond 2^31 is large too
        return entry

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
        """This half of this CTA's rows of a unit that begins at `row` of the page in `column`."""
        kernel, a = self.kernel, self.a
        behind = page  # of box 32 + lane: there are 64 boxes with pages of one token and no cluster
        if const_expr(kernel.cluster == 1):
            if a.boxes > 32:
                behind = self.page_number(request, self.lane_column(column, row, 32))
        with cute.arch.elect_one():
            cute.arch.mbarrier_arrive_and_expect_tx(bar, SLICE_BYTES * self.slices_of(half))
        if const_expr(kernel.cluster > 1):  # to the first row of this CTA
            row += kernel.rank * (UNIT // kernel.cluster)
            row -= self.pages_in(row) * a.page_size
        for box in cutlass.range(a.boxes, unroll=1):
            number = cute.arch.shuffle_sync(page if box < 32 else behind, box % 32)
            at = (kernel.rank * a.boxes + box) * a.box_rows  # row in the unit
            dst, src = self.partition_rows(row, at)
            row += a.box_rows
            if row >= a.page_size:
                row -= a.page_size
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
