"""TMA loads of Q and of the KV pages, by one warp for each half of the columns.

Items in the order of the ring: for each piece first Q, then its pages. A loader's place is kept in shared memory
(the cursor), because its warp also holds an accumulator and has no registers to spare; only the page number, read
one item ahead, stays in one.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Int16, Int32, Int64, const_expr, min

from . import schedule

PAGE = 64
ROPE = 8  # the last of a slot's nine slices of 64 columns
SLICE_BYTES = 64 * 64 * 2
EVICT_FIRST = 0x12F0000000000000  # L2 policy: the line is the first to go

# The cursor: the next item's part, tile and page; end page of its piece; request and KV head of its tile.
PART, TILE, PAGE_INDEX, PAGE_END, REQUEST, HEAD, CURSOR = range(7)
Q_ITEM = -1  # page index of the item that carries Q


class Loader:
    """Both halves' loaders; `half` (0: slices 0-3, 1: 4-8) is a run-time value. tma_*: (atom, source, slices)."""

    def __init__(self, kernel, tma_q, tma_kv):
        self.k, self.a = kernel, kernel.a
        self.tma_q, self.tma_kv = tma_q, tma_kv

    @cute.jit
    def write_cursor(self, half, w, t, page_index, page_end, b, head):
        c = self.k.sCursor
        with cute.arch.elect_one():
            c[PART, half], c[TILE, half], c[PAGE_INDEX, half] = w, t, page_index
            c[PAGE_END, half], c[REQUEST, half], c[HEAD, half] = page_end, b, head
        cute.arch.sync_warp()

    @cute.jit
    def start(self, half, w, t):
        """Puts the cursor before the first piece and fills the ring; returns the page number read ahead."""
        b, head, _ = schedule.tile_place(self.a, t)
        self.write_cursor(half, w, t, Int32(Q_ITEM), Int32(0), b, head)
        page = Int32(0)
        for item in cutlass.range(self.k.slots, unroll=1):
            page = self.fetch(half, item, page)
        return page

    @cute.jit
    def fetch(self, half, item, page):
        """Waits until the slot of `item` is free in the whole cluster, starts its loads and steps the cursor.

        `page` is the page number of the item; returns that of the next.
        """
        k, a, bars = self.k, self.a, self.k.bars
        w, t, index, end, b, head = (k.sCursor[i, half] for i in range(CURSOR))
        cute.arch.sync_warp()
        if w < a.num_parts:
            slot, phase = self.k.slot_phase(item)
            bar = bars + k.FULL + slot
            first = (ROPE + 1) * slot + 4 * half
            cute.arch.mbarrier_wait(bars + k.EMPTY + 2 * slot, phase ^ 1)
            if half == 1:
                cute.arch.mbarrier_wait(bars + k.EMPTY + 2 * slot + 1, phase ^ 1)
            if index == Q_ITEM:
                page = self.page_number(b, schedule.first_page(a, w, t))
                _, _, tile = schedule.tile_place(a, t)
                self.load_q(half, bar, first, tile * k.cluster + k.rank, head, b)
                _, pages = schedule.tile_extent(a, b, tile, k.cluster)
                index, end = schedule.piece_pages(a, w, t, pages)
            else:
                self.load_page(half, bar, first, head, page)
                index += 1
                page = self.page_number(b, index)
            if index >= end:
                w, t = schedule.seek(a, w, t + 1, k.step)
                b, head, _ = schedule.tile_place(a, t)
                index = Int32(Q_ITEM)
            self.write_cursor(half, w, t, index, end, b, head)
        return page

    @cute.jit
    def page_number(self, b, index):
        """Entry of the block table, read ahead: behind the last page of a tile it is any entry, and not used."""
        a = self.a
        row = cute.make_tensor(a.block_table + Int64(b) * a.block_table_stride, cute.make_layout(2**30))
        return row[min(index, a.max_blocks - 1)]

    @cute.jit
    def load_q(self, half, bar, first, block, head, b):
        """This half of a row block. The map's box is block_tokens x block_heads rows, zeros beyond the tensor."""
        a, (atom, src, dst) = self.a, self.tma_q
        chunk, token = block % a.head_chunks, (block // a.head_chunks) * a.block_tokens
        with cute.arch.elect_one():
            row_bytes = SLICE_BYTES // 64 * (4 + half)
            cute.arch.mbarrier_arrive_and_expect_tx(bar, a.block_heads * a.block_tokens * row_bytes)
        for j in cutlass.range_constexpr(4):
            cute.copy(atom, src[None, chunk, 4 * half + j, token, head, b], dst[None, first + j], tma_bar_ptr=bar)
        if half == 1:
            cute.copy(atom, src[None, chunk, ROPE, token, head, b], dst[None, first + 4], tma_bar_ptr=bar)

    @cute.jit
    def load_page(self, half, bar, first, head, page):
        """This half of a page; a page number out of range reads as zeros."""
        _, src, dst = self.tma_kv
        with cute.arch.elect_one():
            cute.arch.mbarrier_arrive_and_expect_tx(bar, SLICE_BYTES * (4 + half))
        for j in cutlass.range_constexpr(4):
            self.copy_slice(src[None, 0, 4 * half + j, head, page], dst[None, first + j], bar)
        if half == 1:
            self.copy_slice(src[None, 0, ROPE, head, page], dst[None, first + 4], bar)

    @cute.jit
    def copy_slice(self, src, dst, bar):
        """Without a cluster nobody wants the page again: evict-first is faster (with multicast slower)."""
        atom = self.tma_kv[0]
        if const_expr(self.k.cluster > 1):
            cute.copy(atom, src, dst, tma_bar_ptr=bar, mcast_mask=Int16((1 << self.k.cluster) - 1))
        else:
            cute.copy(atom, src, dst, tma_bar_ptr=bar, cache_policy=Int64(EVICT_FIRST))
