"""Loaders of rows that TMA does not bring: the eight warps of PV, of which each fetches 16 rows of a unit, half of
their columns, by cp.async (rows.py, codes.py).

Where a loader is, it keeps in registers: the cursor. The record of a piece says which units there are. What says where
a row lies (`keys`: an index, a page number) is read one unit ahead, one a lane: lanes 16 to 31 have the same rows as
lanes 0 to 15.

Rows that need no conversion are handed over by the copies themselves. Where rows are quantised, a unit that was fetched
is pending until it has been settled: its rows have come and have been made into numbers.
"""

import cutlass.cute as cute
from cutlass import Boolean, Int32, Int64, const_expr

from dsl_kernels.core import async_copy, schedule
from dsl_kernels.core.schedule_params import STRIPE
from dsl_kernels.core.threads import lane_now, opaque

from . import work
from .config import AHEAD_BIT, PIECE_BIT
from .loader import DONE, Q_ITEM
from .queries import SLICE_BYTES, Queries

# `at`, one register: the number of the piece that is fetched next, how many pieces the loader is ahead of the products,
# and a bit for each slot that is pending.
PENDING = (1 << AHEAD_BIT) - 1
NEXT_PIECE, PIECE_DONE = (1 << PIECE_BIT) + (1 << AHEAD_BIT), -(1 << AHEAD_BIT)


def piece_of(at):
    """Number of the piece whose products are next."""
    return (at >> PIECE_BIT) - ((at >> AHEAD_BIT) & ((1 << (PIECE_BIT - AHEAD_BIT)) - 1))


class Gather(Queries):
    """The cursor: `at`; the unit that is fetched next; what says where this lane's row there lies.

    reader: who writes the records; keys: where rows lie, and whether it is told in shared memory which are attended.
    """

    def __init__(self, kernel, tma_q, mQ, reader, keys):
        super().__init__(kernel, tma_q, mQ)
        self.reader, self.keys, self.rows = reader, keys, kernel.rows
        # Where the next rows lie is worked out beside the product where the warps make numbers of codes there.
        self.aims_ahead = not kernel.rows.COPIES_ARRIVE

    @cute.jit
    def reads(self, half, warp):
        """Whether this warp is the reader."""
        return (half == 1) and (self.quarter(warp) == 0)

    def quarter(self, warp):
        """Number of a warp in its half."""
        return warp % 4

    @cute.jit
    def aim(self, warp, at, unit, index):
        """Where the rows lie that are fetched next: (is this lane's read, its address, that of its scales)."""
        attended, row, scales = Boolean(False), Int64(0), Int64(0)
        if unit >= 0:
            record, _ = self.bars.record_phase(at >> PIECE_BIT)
            attended, row, scales = self.keys.locate(record, unit, self.row(warp, unit), index)
        return attended, row, scales

    def aim_ahead(self, warp, at, unit, index):
        """What fetch_aimed() is told: where they lie, or what says that."""
        return self.aim(warp, at, unit, index) if self.aims_ahead else (index,)

    @cute.jit
    def fetch(self, half, warp, item, at, unit, index):
        """Waits until the slot of the item is free, starts its loads and steps the cursor on."""
        aimed = self.aim_ahead(warp, at, unit, index)
        return self.fetch_aimed(half, warp, item, at, unit, index, aimed)

    @cute.jit
    def fetch_aimed(self, half, warp, item, at, unit, index, aimed: tuple):
        """The same, of what aim_ahead() gave."""
        rows = aimed if self.aims_ahead else self.aim(warp, at, unit, index)
        sWork = self.smem.sWork
        if unit != DONE:
            slot, phase = self.bars.slot_phase(item)
            cute.arch.mbarrier_wait(self.bars.empty(slot, 0), phase ^ 1)
            if half == 1:  # P lies in the last slice
                cute.arch.mbarrier_wait(self.bars.empty(slot, 1), phase ^ 1)
            if unit == Q_ITEM:
                unit, index = self.begin_piece(half, warp, slot, phase, at >> PIECE_BIT)
            else:
                record, _ = self.bars.record_phase(at >> PIECE_BIT)
                end = sWork[work.FIRST_UNIT, record] + sWork[work.UNITS, record]
                self.start_rows(half, warp, slot, rows)
                if const_expr(not self.rows.COPIES_ARRIVE):
                    at |= 1 << slot
                unit += 1
                if unit >= end:
                    unit = Int32(Q_ITEM)
                    at += NEXT_PIECE
                else:
                    index = self.read_ahead(warp, record, unit)
        return at, unit, index

    def read_ahead(self, warp, record, unit):
        """What says where this lane's row in a unit lies."""
        return self.keys.read(record, unit, self.row(warp, unit))

    def pass_q(self, half, slot, phase):
        """Of an item without rows nothing has to be said."""

    @cute.jit
    def writes(self, half, slot):
        """Whether this thread tells which rows of its warp are attended."""
        return (half == 0) and (lane_now(slot) == 0)

    def row(self, warp, unit):
        """This lane's row in a unit."""
        return warp % 4 * STRIPE + lane_now(unit) % STRIPE

    @cute.jit
    def begin_piece(self, half, warp, slot, phase, piece):
        """Fetches Q of a piece, if there is one; returns its first unit and what this lane's row there selects."""
        kernel, sWork = self.kernel, self.smem.sWork
        if self.reads(half, warp) and (piece > 0):
            self.reader.publish_next(piece)
        record = self.bars.wait_for_work(piece)
        unit, index = Int32(DONE), Int32(-1)
        if sWork[work.UNITS, record] > 0:
            unit = sWork[work.FIRST_UNIT, record]
            index = self.read_ahead(warp, record, unit)
            bar = self.bars.full(slot)
            if self.quarter(warp) == 0:
                self.pass_q(half, slot, phase)
                request, head, tile_of_head = schedule.locate_tile(self.a, sWork[work.TILE, record])
                first = kernel.slices * slot + self.half_slices * half
                self.load_q(half, bar, first, tile_of_head, head, request, sWork[work.QUERY, record])
            cute.arch.sync_warp()
            cute.arch.mbarrier_arrive(bar)
            if const_expr(self.rows.COPIES_ARRIVE and self.keys.TELLS):
                if self.writes(half, slot):
                    cute.arch.mbarrier_arrive(bar)
        return unit, index

    @cute.jit
    def announce(self, bar, half):
        rows = opaque(self.a.block_heads) * self.a.block_tokens
        with cute.arch.elect_one():
            cute.arch.mbarrier_expect_tx(bar, rows * (SLICE_BYTES // 64 * self.slices_of(half)))
        cute.arch.sync_warp()

    @cute.jit
    def start_rows(self, half, warp, slot, aimed: tuple):
        """Starts the loads of this warp's rows of a unit, half of their columns; tells which of them are attended."""
        attended, row, scales = aimed
        valid = cute.arch.vote_ballot_sync(attended) & (2**STRIPE - 1)
        if const_expr(self.keys.TELLS):
            if self.writes(half, slot):
                self.keys.tell(warp, slot, valid)
                if const_expr(self.rows.COPIES_ARRIVE):
                    cute.arch.mbarrier_arrive(self.bars.full(slot))
        self.rows.start(half, slot, warp % 4, row, scales, valid)
        if const_expr(self.rows.COPIES_ARRIVE):
            cute.arch.cp_async_mbarrier_arrive_noinc(self.bars.full(slot))
        else:
            async_copy.end_group()

    @cute.jit
    def settle(self, half, warp, at, it):
        """Waits for the rows that were fetched, makes them into numbers and says that they have come. They are of the
        items behind item `it`.
        """
        return at if const_expr(self.rows.COPIES_ARRIVE) else self.settle_pending(half, warp, at, it)

    @cute.jit
    def settle_pending(self, half, warp, at, it):
        pending = at & PENDING
        at -= pending
        while pending != 0:
            slot = cute.arch.popc((pending & -pending) - 1)  # that of the lowest bit
            pending -= 1 << slot
            self.await_rows(half, slot, it)
            self.rows.finish(half, slot, self.quarter(warp))
            cute.arch.fence_proxy("async.shared", space="cta")
            cute.arch.mbarrier_arrive(self.bars.full(slot))
        return at

    def await_rows(self, _half, _slot, _it):
        """Of all items that were fetched."""
        async_copy.wait_for_all()
        cute.arch.sync_warp()
