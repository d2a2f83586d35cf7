"""The producer: a warpgroup of its own that fetches rows which TMA does not bring, by cp.async, and Q by TMA.

Each of its four warps brings 16 rows of a unit, all their columns (rows.py), or of codes in a pair of CTAs 8 of those
that its CTA makes for both (made_codes.py). What says where a row lies (`keys`: an index, a page number) is read one
unit ahead, one a lane: lanes 16 to 31 have the same rows as lanes 0 to 15, but of codes in a pair. Its first warp is
the reader, too: it writes the records of pieces (work.py), but for the first one; in a pair that of the first CTA.

It has few registers, since O, S and Q take nearly all that there are.
"""

import cutlass.cute as cute
from cutlass import Boolean, Int32, const_expr

from dsl_kernels.core import schedule
from dsl_kernels.core.threads import lane_now

from . import work
from .queries import SLICE_BYTES, Queries


class Producer(Queries):
    """reader: who writes the records; keys: where rows lie, and who tells which are attended."""

    def __init__(self, kernel, tma_q, mQ, reader, keys):
        super().__init__(kernel, tma_q, mQ)
        self.reader, self.keys, self.rows = reader, keys, kernel.rows

    def come(self, slot):
        """The barrier that says of a unit that its rows have come."""
        return self.bars.full(slot) if const_expr(self.rows.COPIES_ARRIVE) else self.bars.fetched(slot)

    @cute.jit
    def run(self, warp):
        """All pieces, in order of the ring."""
        sWork = self.smem.sWork
        item, piece = Int32(0), Int32(0)
        there = sWork[work.UNITS, self.bars.wait_for_work(piece)] > 0
        while there:
            record, _ = self.bars.record_phase(piece)
            unit = sWork[work.FIRST_UNIT, record]
            index, before = self.keys.read(record, unit, self.row(warp, unit)), Int32(-1)
            self.give_q(warp, item, record)
            item += 1
            more = Boolean(True)
            while more:
                record, _ = self.bars.record_phase(piece)
                attended, address, scales = self.keys.locate(record, unit, self.row(warp, unit), index)
                unit += 1
                more = unit < sWork[work.FIRST_UNIT, record] + sWork[work.UNITS, record]
                ahead = index
                if more:
                    ahead = self.keys.read(record, unit, self.row(warp, unit))
                self.await_place(item)
                self.start_rows(warp, item, attended, address, scales, not more)
                if const_expr(self.kernel.turns):
                    if unit > sWork[work.FIRST_UNIT, record] + 1:
                        self.start_rope(warp, item - 1, record, unit - 2, before)
                    before = index
                index = ahead
                item += 1
            self.bars.wait_for_room(item)
            if const_expr(self.kernel.turns):
                record, _ = self.bars.record_phase(piece)
                self.start_rope(warp, item - 1, record, unit - 1, before)
            piece += 1
            if const_expr(self.kernel.turns):  # P lies where the RoPE part of the next Q will
                self.bars.wait_for_room(item + (self.kernel.slots - 2))
            if self.reads(warp):
                self.reader.publish_next(piece)
            there = sWork[work.UNITS, self.bars.wait_for_work(piece)] > 0

    @cute.jit
    def await_place(self, item):
        """Until rows of a unit may be fetched: of a pair, where this CTA's own ones lie."""
        if const_expr(self.kernel.cluster > 1):
            slot, phase = self.bars.slot_phase(item)
            self.bars.wait_until_free(slot, phase)
        else:
            self.bars.wait_for_room(item)

    @cute.jit
    def reads(self, warp):
        """Whether this warp is the reader."""
        reads = warp == 0
        if const_expr(self.kernel.cluster > 1):
            reads = reads and (self.kernel.rank == 0)
        return reads

    def row(self, warp, unit):
        """This lane's row in a unit."""
        return self.rows.row(warp, lane_now(unit))

    @cute.jit
    def give_q(self, warp, item, record):
        """Q of a piece; the first two warps load a half each. No rows come with it: all say so at once."""
        kernel, sWork = self.kernel, self.smem.sWork
        slot, phase = self.bars.slot_phase(item)
        last = self.smem.last(item, slot) if const_expr(kernel.turns) else None
        if warp < 2:
            request, head, tile_of_head = schedule.locate_tile(self.a, sWork[work.TILE, record])
            first, query = kernel.slices * slot + self.half_slices * warp, sWork[work.QUERY, record]
            self.load_q(warp, self.bars.full(slot), first, tile_of_head, head, request, query, last)
        cute.arch.sync_warp()
        cute.arch.mbarrier_arrive(self.come(slot))
        if lane_now(slot) == 0:  # as the writer of which rows are attended
            cute.arch.mbarrier_arrive(self.come(slot))
        if const_expr(not self.rows.COPIES_ARRIVE):
            # for both halves of PV
            cute.arch.mbarrier_arrive(self.bars.full(slot))
            cute.arch.mbarrier_arrive(self.bars.full(slot))
            cute.arch.mbarrier_wait(self.come(slot), phase)
        if const_expr(self.kernel.turns):
            bar, parity = self.bars.rope(item)
            cute.arch.mbarrier_arrive(bar)
            cute.arch.mbarrier_wait(bar, parity)

    @cute.jit
    def start_rope(self, warp, item, record, unit, index):
        attended, address, _ = self.keys.locate(record, unit, self.row(warp, unit), index)
        valid = cute.arch.vote_ballot_sync(attended)
        self.rows.start_rope(item, warp, address, valid)
        bar, _ = self.bars.rope(item)
        cute.arch.cp_async_mbarrier_arrive_noinc(bar)

    @cute.jit
    def announce(self, bar, half):
        a = self.a
        with cute.arch.elect_one():
            cute.arch.mbarrier_expect_tx(bar, a.block_heads * a.block_tokens * (SLICE_BYTES // 64 * self.half_slices))
            if const_expr(self.rope):
                if half == 1:
                    cute.arch.mbarrier_expect_tx(bar, a.block_heads * a.block_tokens * (SLICE_BYTES // 64))
        cute.arch.sync_warp()

    @cute.jit
    def start_rows(self, warp, item, attended, address, scales, last):
        """Starts the loads of this warp's rows of a unit; tells which of them are attended. What the other CTA of a
        pair makes of the unit is announced. last: of the piece.
        """
        slot, _ = self.bars.slot_phase(item)
        if const_expr(self.kernel.cluster > 1):
            if warp == 0:
                self.rows.announce(slot)
        valid = cute.arch.vote_ballot_sync(attended)
        if lane_now(slot) == 0:
            self.keys.tell(warp, slot, valid)
            cute.arch.mbarrier_arrive(self.come(slot))
        self.rows.start_whole(slot, warp, address, scales, valid)
        if const_expr(self.kernel.cluster > 1):
            if last:  # the next record asks for it (barriers.py)
                self.bars.wait_for_room(item)
        cute.arch.cp_async_mbarrier_arrive_noinc(self.come(slot))
