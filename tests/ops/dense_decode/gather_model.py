"""The model of dense_decode's roles where rows are gathered: every warp of PV fetches its rows of a unit.

They follow dsl_kernels/dense_decode/{gather_pv,gather,boxes,code_qk}.py step by step and must be changed with them.
"""

from __future__ import annotations

import dataclasses
import functools

from dsl_kernels.dense_decode.barrier_table import gathering
from ops.dense_decode.barrier_model import EVERY_LANE, HALF, ONE_LANE, PV_WARPS, Block, Cursor, Mbarrier, Model, Role


@dataclasses.dataclass
class RowCursor(Cursor):
    """Of a warp, with the units whose rows are under way or wait to be made into numbers."""

    pending: list[int] = dataclasses.field(default_factory=list)
    come: set[int] = dataclasses.field(default_factory=set)


class GatherModel(Model):
    """copies_arrive: rows need no conversion, and their copies arrive for the threads. tells: it is told which rows are
    attended.
    """

    copies_arrive = tells = False
    took_sums = ONE_LANE
    barriers = gathering()
    waits_for_rows = True

    def await_unused(self, _block: Block) -> Role:
        """Nothing is fetched without work."""
        yield from ()

    # ---- loads

    def come_rows(self, block: Block, half: int, item: int, cursor: RowCursor) -> None:
        """A warp's rows of half a unit are there."""
        cursor.come.add(item)
        parts = block.boxes[item, half] = block.boxes.get((item, half), 0) + 1
        if parts == PV_WARPS:
            block.holds[item % self.slots][half] = item
        if self.copies_arrive:
            block.full[item % self.slots].arrive(EVERY_LANE)

    def come_q(self, block: Block, half: int, item: int) -> None:
        block.holds[item % self.slots][half] = item
        block.full[item % self.slots].come(HALF)

    def fetch_rows(self, block: Block, half: int, warp: int, item: int, cursor: RowCursor) -> Role:
        me, (slot, phase) = ("PV", half, warp), self.slot_phase(item)
        if cursor.done:
            return
        yield block.empty[slot][0], phase ^ 1
        if half == 1:
            yield block.empty[slot][1], phase ^ 1
        if cursor.fetched is None:
            yield from self.begin_piece(block, half, warp, item, cursor)
            return
        if self.loads(warp):
            assert not block.users[slot][half], "a slot is overwritten that somebody reads"
        yield None
        self.say_attended(block, half, slot)
        self.start_rows(block, half, warp, item, cursor)
        if not self.copies_arrive:
            cursor.pending.append(item)
        cursor.fetched += 1
        if cursor.fetched >= cursor.units:
            self.done_with(block, cursor.piece, ("loader", *me))
            cursor.piece, cursor.fetched = cursor.piece + 1, None

    def loads(self, _warp: int) -> bool:
        """Whether it begins to fill the slot."""
        return True

    def start_rows(self, block: Block, half: int, _warp: int, item: int, cursor: RowCursor) -> None:
        self.later(functools.partial(self.come_rows, block, half, item, cursor))

    def pass_q(self, _block: Block, _half: int, _item: int) -> Role:
        yield from ()

    def begin_piece(self, block: Block, half: int, warp: int, item: int, cursor: RowCursor) -> Role:
        """Q, if there is a piece."""
        if warp == 0 and self.reads(block, half) and cursor.piece > 0:
            yield None
            self.publish(cursor.piece)
        yield self.wait_for_work(block, cursor.piece)
        cursor.units = self.read(block, cursor.piece, ("loader", "PV", half, warp))
        if cursor.units == 0:
            cursor.done = True
            return
        slot, cursor.fetched = item % self.slots, 0
        if warp == 0:
            yield from self.pass_q(block, half, item)
            block.full[slot].bytes += HALF
            self.later(functools.partial(self.come_q, block, half, item))
        block.full[slot].arrive(EVERY_LANE)
        self.say_attended(block, half, slot)

    def say_attended(self, block: Block, half: int, slot: int) -> None:
        """By those who write which rows are."""
        if self.copies_arrive and self.tells and half == 0:
            block.full[slot].arrive(ONE_LANE)

    def await_rows(self, _block: Block, _half: int, cursor: RowCursor) -> Role:
        while self.waits_for_rows and not cursor.come.issuperset(cursor.pending):
            yield None

    def settle(self, block: Block, half: int, cursor: RowCursor) -> Role:
        yield from self.await_rows(block, half, cursor)
        for item in cursor.pending:
            yield None
            block.full[item % self.slots].arrive(EVERY_LANE)
        cursor.pending.clear()

    # ---- PV

    def pv(self, block: Block, half: int, warp: int) -> Role:
        me, cursor = ("PV", half, warp), RowCursor()
        if warp == 1 and self.reads(block, half):
            yield None
            self.publish(0)
        it = piece = 0
        while True:
            for item in range(0 if it == 0 else it + self.slots - 1, it + self.slots):
                yield from self.fetch_rows(block, half, warp, item, cursor)
            yield from self.settle(block, half, cursor)
            yield from self.fetch_rows(block, half, warp, it + self.slots, cursor)
            yield self.wait_for_work(block, piece)
            n = self.read(block, piece, me)
            if n == 0:
                return
            it += 1
            while n > 0:
                slot, phase = self.slot_phase(it)
                yield block.full[slot], phase
                yield block.p_full[slot], phase
                self.use(block, it, me, (half,))
                yield block.go[slot], phase
                yield None
                assert block.p[slot] == [it] * len(block.p[slot]), "P of another unit"
                yield from self.settle(block, half, cursor)
                n -= 1
                if n > 0:
                    self.release(block, me, slot, half)
                    yield from self.fetch_rows(block, half, warp, it + self.slots, cursor)
                it += 1
            yield from self.end_piece(block, half, me, it, piece)
            piece += 1


class CopiesArrive(GatherModel):
    copies_arrive = True


class Boxed(GatherModel):
    """Codes that come by TMA (dsl_kernels/dense_decode/boxes.py)."""

    barriers = gathering(boxed=True)

    def raw(self, block: Block, half: int, item: int) -> Mbarrier:
        return block.made["raw"][2 * (item % self.slots) + half]

    def loads(self, warp: int) -> bool:
        return warp == 0

    def start_rows(self, block: Block, half: int, warp: int, item: int, _cursor: RowCursor) -> None:
        if self.loads(warp):
            self.raw(block, half, item).arrive(ONE_LANE, HALF)
            self.later(functools.partial(self.come_box, block, half, item))

    def come_box(self, block: Block, half: int, item: int) -> None:
        block.holds[item % self.slots][half] = item
        self.raw(block, half, item).come(HALF)

    def pass_q(self, block: Block, half: int, item: int) -> Role:
        self.raw(block, half, item).arrive(ONE_LANE)
        yield self.raw(block, half, item), self.slot_phase(item)[1]

    def await_rows(self, block: Block, half: int, cursor: RowCursor) -> Role:
        for item in cursor.pending:
            yield self.raw(block, half, item), self.slot_phase(item)[1]
            assert block.holds[item % self.slots][half] == item, "codes of another item"


class CodeProducts(Boxed):
    """Whose codes QK takes as they come (dsl_kernels/dense_decode/code_qk.py), and PV turns round, a unit ahead, into
    one of two copies (code_pv.py).
    """

    barriers = gathering(boxed=True, fp8_products=True)

    def qk(self, block: Block, warp: int) -> Role:
        me = ("QK", warp)
        it = piece = 0
        self.hand_over(block, it)
        yield self.wait_for_work(block, piece)
        yield block.p_full[0], 0
        n = self.read(block, piece, me)
        while n > 0:
            yield from self.take_q(block, warp, it)
            it += 1
            while n > 0:
                slot, phase = self.slot_phase(it)
                for barrier in self.that_unit_came(block, it):
                    yield barrier, phase
                yield block.sum_empty, (piece + 1) & 1
                self.use(block, it, me, (0, 1))
                yield None
                block.users[slot][0].discard(me)
                block.users[slot][1].discard(me)
                yield None
                block.p[slot][warp], block.scales[slot][warp] = it, it
                self.hand_over(block, it)
                it, n = it + 1, n - 1
            yield from self.finish(block, warp, it, piece)
            piece += 1
            yield self.wait_for_work(block, piece)
            n = self.read(block, piece, me)

    def that_unit_came(self, block: Block, item: int) -> list[Mbarrier]:
        return [self.raw(block, half, item) for half in range(2)]

    def await_other_warps(self, block: Block, half: int, item: int) -> Role:
        slot, phase = self.slot_phase(item)
        yield block.empty[slot][half], phase

    def turn(self, block: Block, half: int, warp: int, item: int) -> Role:
        slot, phase = self.slot_phase(item)
        yield self.raw(block, half, item), phase
        assert block.holds[slot][half] == item, "codes of another item"
        copy, users = block.copies[half][item % 2]
        assert not users, "a copy is overwritten that somebody reads"
        copy[warp] = item
        yield None
        block.full[slot].arrive(EVERY_LANE)

    def pv(self, block: Block, half: int, warp: int) -> Role:
        me, cursor = ("PV", half, warp), RowCursor()
        if warp == 1 and self.reads(block, half):
            yield None
            self.publish(0)
        it = piece = 0
        while True:
            if it > 0:
                yield from self.await_other_warps(block, half, it - 1)
            for item in range(0 if it == 0 else it + self.slots - 1, it + self.slots + 1):
                yield from self.fetch_rows(block, half, warp, item, cursor)
            yield self.wait_for_work(block, piece)
            n = self.read(block, piece, me)
            if n == 0:
                return
            it += 1
            yield from self.turn(block, half, warp, it)
            follows = False
            while n > 0:
                yield from self.start_product(block, me, it)
                if follows:
                    yield from self.await_other_warps(block, half, it - 1)
                    yield from self.fetch_rows(block, half, warp, it - 1 + self.slots, cursor)
                if n > 1:
                    yield from self.turn(block, half, warp, it + 1)
                yield None
                block.copies[half][it % 2][1].discard(warp)
                n, follows = n - 1, True
                if n > 0:
                    self.release(block, me, it % self.slots, half)
                it += 1
            yield from self.store_rows(block, half, warp)
            yield from self.end_piece(block, half, me, it, piece)
            piece += 1

    def store_rows(self, block: Block, half: int, warp: int) -> Role:
        """They lie in the copies."""
        for _, users in block.copies[half]:
            users.add(("rows", warp))
        yield None
        for _, users in block.copies[half]:
            users.discard(("rows", warp))

    def start_product(self, block: Block, me: tuple, it: int) -> Role:
        _, half, warp = me
        slot, phase = self.slot_phase(it)
        yield block.p_full[slot], phase
        yield block.full[slot], phase
        self.use(block, it, me, (half,))
        copy, users = block.copies[half][it % 2]
        assert copy == [it] * PV_WARPS, "a copy of another unit"
        users.add(warp)
        yield None
        assert block.p[slot] == [it] * len(block.p[slot]), "P of another unit"
