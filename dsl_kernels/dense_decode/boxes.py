"""Codes in pages of 64 tokens, or a multiple: TMA brings the bytes of a unit to all warps that make numbers of them.

The map sees a row as elements of two bytes. As where codes are gathered, they come into slices that their numbers do
not need yet (of narrow rows into those that they take), and scales, with what lies behind them in the row, into the
first. A page outside the cache is zeros.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Int32, const_expr
from cutlass.cute.nvgpu import cpasync

from dsl_kernels.core import schedule
from dsl_kernels.core.schedule_params import UNIT
from dsl_kernels.core.threads import opaque, thread_now

from .gather import Gather
from .queries import SLICE_BYTES


class Boxes(Gather):
    def __init__(self, kernel, tma_q, mQ, reader, keys, tma_kv, mKV):
        super().__init__(kernel, tma_q, mQ, reader, keys)
        self.tma_kv, self.mKV = tma_kv, mKV

    def quarter(self, _warp):
        """Read on the spot: there is no register for it."""
        return cute.arch.make_warp_uniform(thread_now() >> 5)

    def aim(self, _warp, _at, unit, index):
        return index, unit

    @cute.jit
    def read_ahead(self, warp, record, unit):
        """The page of a unit, for the warp that loads."""
        page = Int32(0)
        if self.quarter(warp) == 0:
            page = self.keys.read(record, unit, Int32(0))
        return page

    @cute.jit
    def start_rows(self, half, warp, slot, aimed: tuple):
        if self.quarter(warp) == 0:
            page, unit = aimed
            a, rows, bar = self.a, self.rows, self.bars.raw(slot, half)
            page, token = cute.arch.shuffle_sync(page, 0), unit * UNIT
            row = token - schedule.divide(token, a.by_page) * a.page_size
            boxes = Int32(rows.parts + (rows.codes.scales_at is not None))
            if const_expr(rows.rope_box is not None):
                boxes += opaque(half)  # there is no register for it
            with cute.arch.elect_one():
                cute.arch.mbarrier_arrive_and_expect_tx(bar, SLICE_BYTES * boxes)
            for part in cutlass.range_constexpr(rows.parts):
                self.load(row, *rows.box(half, part), page, slot, rows.raw(half, part), bar)
            if const_expr(rows.codes.scales_at is not None):
                at = rows.codes.scales_at // 2
                self.load(row, at % 64, at // 64, page, slot, 4 * half, bar)
            if const_expr(rows.rope_box is not None):
                if half == 1:
                    byte, which = rows.rope_box
                    self.load(row, byte // 2 % 64, byte // 2 // 64, page, slot, which, bar)

    @cute.jit
    def load(self, row, skipped, column, page, slot, which, bar):
        """A box: 64 rows of a page from `row` on, 128 bytes of each. column: in boxes, behind `skipped` elements."""
        mKV = cute.domain_offset((row, skipped, 0, 0), self.mKV)
        gKV = cute.group_modes(cute.local_tile(mKV, (64, 64), (None, None, None, None)), 0, 2)
        slices = cute.group_modes(self.smem.sS, 0, 2)
        dst, src = cpasync.tma_partition(self.tma_kv, 0, cute.make_layout(1), slices, gKV)
        to = dst[None, self.kernel.slices * slot + which]
        cute.copy(self.tma_kv, src[None, 0, column, 0, page], to, tma_bar_ptr=bar, cache_policy=self.a.kv_policy)

    @cute.jit
    def pass_q(self, half, slot, phase):
        """The slot's phase of codes, of an item that has none: who ends it waits, for what is over by then."""
        bar = self.bars.raw(slot, half)
        self.bars.arrive(bar)
        cute.arch.mbarrier_wait(bar, phase)

    @cute.jit
    def await_rows(self, half, slot, it):
        """Of the item in that slot, which is one or two behind item `it`."""
        first, _ = self.bars.slot_phase(it)
        item = it + slot - first
        item = item if slot >= first else item + self.kernel.slots
        _, phase = self.bars.slot_phase(item)
        cute.arch.mbarrier_wait(self.bars.raw(slot, half), phase)
