"""A model of the roles of dense_decode and its barriers, run in random order with long stalls. It stops with an
AssertionError where a wait never ends, or where somebody finds in shared memory what he does not expect.

The barriers are those of the kernel's table. The roles follow dsl_kernels/dense_decode/{qk,pv,loader}.py and what
invariant_*.py have otherwise, step by step, and must be changed with them. A warp is a generator that yields what it
waits for, or None where time passes; its threads arrive together.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Iterator

from dsl_kernels.dense_decode.barrier_table import BARRIERS, INVARIANT, Barrier, records

QK_WARPS, PV_WARPS = 4, 4  # the latter of each half
# arrivals of a warp, as barriers.py has them
ONE_LANE, EVERY_FOURTH, EVERY_LANE = 1, 8, 32
HALF, RECORD = 1000, 32  # bytes that come for half an item, and for a work record


class Mbarrier:
    """Phases of `count` arrivals and all announced bytes; a wait sees only the parity of the phase under way."""

    def __init__(self, count: int) -> None:
        self.count = self.missing = count
        self.bytes = self.phase = 0
        self.seen = True  # by a wait: that the last phase is over

    def arrive(self, arrivals: int = 1, announced: int = 0) -> None:
        for i in range(arrivals):
            self.missing -= 1
            self.bytes += announced if i == 0 else 0
            self.step()

    def come(self, size: int) -> None:
        self.bytes -= size
        self.step()

    def step(self) -> None:
        if self.missing <= 0 and self.bytes == 0 and self.count > 0:
            assert self.seen, "a phase that nobody waits for"
            self.missing, self.phase, self.seen = self.count, self.phase ^ 1, False

    def over(self, parity: int) -> bool:
        if self.phase != parity:
            self.seen = True
        return self.phase != parity


Wait = tuple[Mbarrier, int] | None
Role = Iterator[Wait]


class Block:
    """A CTA: its barriers, and what lies in its shared memory."""

    def __init__(self, barriers: tuple[Barrier, ...], slots: int, cluster: int, records: int) -> None:
        self.made = {b.name: [Mbarrier(b.count(cluster)) for _ in range(b.number(slots))] for b in barriers}
        self.full, self.p_full = self.made["full"], self.made["p_full"]
        self.go = self.made.get("qk_done", self.p_full)  # the latter where PV hears both at once
        empty, halves = self.made["empty"], len(self.made["empty"]) // slots  # one for both halves, or one each
        self.empty = [[empty[halves * slot], empty[halves * slot + halves - 1]] for slot in range(slots)]
        (self.sum_empty,), self.work_full = self.made["sum_empty"], self.made["work_full"]
        self.sums = self.made.get("sums", [])  # in batch-invariant calls
        self.joined = [Mbarrier(PV_WARPS) for _ in range(2)]  # bar.sync of PV's warps of a half, before they fold
        self.holds = [[-1, -1] for _ in range(slots)]  # the item whose half has come
        self.boxes: dict[tuple[int, int], int] = {}  # (item, half): boxes that have come
        self.products: list[list[set]] = [[set(), set()] for _ in range(slots)]  # warps of PV, until they have its end
        self.users: list[list[set]] = [[set(), set()] for _ in range(slots)]  # warps that read half a slot
        self.p: list[list] = [[None] * QK_WARPS for _ in range(slots)]  # the unit of which a warp's rows of P lie there
        # of V, where it is turned round: the unit of which a warp's tokens lie there, and who reads them
        self.copies = [[([None] * PV_WARPS, set()) for _ in range(2)] for _ in range(2)]
        self.scales: list[list] = [[None] * QK_WARPS for _ in range(slots)]
        self.records: list[tuple[int, int]] = [(-1, -1)] * records  # (piece, its units)
        self.readers: list[set] = [set() for _ in range(records)]  # who has not done with a record yet


@dataclasses.dataclass
class Cursor:
    """Of a loader."""

    item: int = 0
    piece: int = 0
    units: int | None = None  # of the piece, once that is known
    fetched: int | None = None  # of them; None: Q comes next
    done: bool = False


class Model:
    ctas = 1  # of a cluster, where all kernels have as many
    barriers, of_invariant = BARRIERS, INVARIANT
    pv_waits_for_q = False
    qk_waits_for_q = True
    reader_half = 1
    fewer_records = 0
    waits_for_sums = True
    folds_at_once = False
    took_sums = EVERY_LANE
    stalls = 50, 400  # steps

    def __init__(self, tiles: list[int], slots: int, cluster: int, seed: int, more: list[bool] | None = None) -> None:
        """tiles: units of each piece, at least one. more, of a batch-invariant call: whether the next piece is of the
        same tile, and then has two units at least; the last is of none.
        """
        self.tiles, self.slots, self.cluster = tiles, slots, cluster
        self.invariant, self.more = more is not None, more or [False] * len(tiles)
        self.records = records(slots) - self.fewer_records
        self.random = random.Random(seed)
        barriers = self.of_invariant if self.invariant else self.barriers
        self.blocks = [Block(barriers, slots, cluster, self.records) for _ in range(cluster)]
        self.events: list[tuple[int, Callable[[], None]]] = []  # what is under way, and when it comes
        self.now = 0

    def slot_phase(self, item: int) -> tuple[int, int]:
        return item % self.slots, item // self.slots & 1

    def later(self, event: Callable[[], None]) -> None:
        self.events.append((self.now + self.random.randint(1, 40), event))

    def release(self, block: Block, warp: object, slot: int, half: int) -> None:
        block.users[slot][half].discard(warp)
        for target in self.blocks:
            target.empty[slot][half].arrive(EVERY_LANE)

    # ---- work records

    def publish(self, piece: int) -> None:
        units = self.tiles[piece] if piece < len(self.tiles) else 0
        record = piece % self.records
        for target in self.blocks:
            bar = target.work_full[record]
            self.later(functools.partial(self.write, target, record, (piece, units)))
            self.later(functools.partial(bar.arrive, ONE_LANE, RECORD))

    def write(self, target: Block, record: int, content: tuple[int, int]) -> None:
        assert not target.readers[record], "a record is overwritten that somebody reads"
        target.records[record] = content
        target.work_full[record].come(RECORD)

    def wait_for_work(self, block: Block, piece: int) -> Wait:
        return block.work_full[piece % self.records], piece // self.records & 1

    def read(self, block: Block, piece: int, reader: object) -> int:
        """Units of the piece."""
        found, units = block.records[piece % self.records]
        assert found == piece, "the record of another piece"
        block.readers[piece % self.records].add(reader)
        return units

    def done_with(self, block: Block, piece: int, reader: object) -> None:
        block.readers[piece % self.records].discard(reader)

    def same_q(self, piece: int) -> bool:
        return piece > 0 and self.more[piece - 1]

    # ---- loads

    def load(self, block: Block, half: int, item: int, targets: list[Block]) -> None:
        block.full[item % self.slots].arrive(ONE_LANE, HALF)
        for target in targets:
            assert not target.users[item % self.slots][half], "a slot is overwritten that somebody reads"
            self.later(functools.partial(self.land, target, half, item, len(targets)))

    def land(self, block: Block, half: int, item: int, boxes: int) -> None:
        come = block.boxes[item, half] = block.boxes.get((item, half), 0) + 1
        if come == boxes:
            block.holds[item % self.slots][half] = item
        block.full[item % self.slots].come(HALF // boxes)

    def fetch(self, block: Block, half: int, cursor: Cursor) -> Role:
        """Starts the loads of half an item; a unit comes for the whole cluster."""
        item, me = cursor.item, ("loader", half)
        cursor.item += 1
        if cursor.done:
            return
        slot, phase = self.slot_phase(item)
        yield block.empty[slot][0], phase ^ 1
        if half == 1:
            yield block.empty[slot][1], phase ^ 1
        if cursor.fetched is None:
            if cursor.piece > 0:
                if self.reads(block, half):
                    yield None
                    self.publish(cursor.piece)
                yield self.wait_for_work(block, cursor.piece)
                cursor.units = self.read(block, cursor.piece, me)
                if cursor.units == 0:
                    cursor.done = True
                    return
            cursor.fetched = 0
            if not self.same_q(cursor.piece):
                self.load(block, half, item, [block])
                return
        self.load(block, half, item, self.blocks)
        if item == 1:
            yield self.wait_for_work(block, cursor.piece)
            cursor.units = self.read(block, cursor.piece, me)
        cursor.fetched += 1
        if cursor.fetched >= cursor.units:
            cursor.done = cursor.units == 0
            yield None
            self.done_with(block, cursor.piece, me)
            cursor.piece, cursor.fetched = cursor.piece + 1, None

    def reads(self, block: Block, half: int) -> bool:
        return block is self.blocks[0] and half == self.reader_half

    # ---- QK

    def hand_over(self, block: Block, item: int) -> None:
        block.p_full[item % self.slots].arrive(EVERY_FOURTH)

    def go(self, block: Block, warp: int, item: int) -> None:
        if warp == 0:
            block.go[item % self.slots].arrive(ONE_LANE)

    def go_past_q(self, block: Block, warp: int, item: int) -> Role:
        self.go(block, warp, item)
        if warp == 0 and self.qk_waits_for_q:
            slot, phase = self.slot_phase(item)
            yield block.go[slot], phase

    def use(self, block: Block, item: int, warp: object, halves: tuple[int, ...]) -> None:
        for half in halves:
            assert block.holds[item % self.slots][half] == item, "another item than the expected one"
            block.users[item % self.slots][half].add(warp)

    def qk(self, block: Block, warp: int) -> Role:
        me = ("QK", warp)
        it = piece = 0
        yield from self.start(block, warp)
        n = self.read(block, piece, me)
        if n == 0:
            yield from self.await_unused(block)
        while n > 0:
            if not self.same_q(piece):
                yield from self.take_q(block, warp, it)
                it += 1
            begun = here = False
            while n > 0:
                slot, phase = self.slot_phase(it)
                if not here:
                    if begun:
                        self.hand_over(block, it - 1)
                        self.go(block, warp, it - 1)
                    for barrier in self.that_unit_came(block, it):
                        yield barrier, phase
                self.say_came(block, warp, it)
                self.use(block, it, me, (0, 1))
                yield None
                if here:
                    self.hand_over(block, it - 1)
                yield from self.await_rope(block, it)
                yield None
                if here:
                    self.go(block, warp, it - 1)
                yield block.sum_empty, (piece + 1) & 1
                block.users[slot][0].discard(me)
                block.users[slot][1].discard(me)
                yield None
                _, phase = self.slot_phase(it + 1)
                here = all(barrier.over(phase) for barrier in self.that_unit_came(block, it + 1))
                yield None
                block.p[slot][warp], block.scales[slot][warp] = it, it
                it, n, begun = it + 1, n - 1, True
            self.hand_over_last(block, warp, it - 1, piece)
            yield from self.finish(block, warp, it, piece)
            yield from self.said_end(block, warp, it)
            piece += 1
            yield self.wait_for_work(block, piece)
            n = self.read(block, piece, me)

    def start(self, block: Block, warp: int) -> Role:
        """To the first record."""
        if not self.invariant:
            self.hand_over(block, 0)
            yield from self.go_past_q(block, warp, 0)
        yield self.wait_for_work(block, 0)
        if self.qk_waits_for_q and not self.invariant:
            yield block.p_full[0], 0

    def that_unit_came(self, block: Block, item: int) -> list[Mbarrier]:
        return [block.full[item % self.slots]]

    def say_came(self, _block: Block, _warp: int, _item: int) -> None:
        """Nobody wants to know."""

    def await_rope(self, _block: Block, _item: int) -> Role:
        """It came with the unit."""
        yield from ()

    def await_unused(self, block: Block) -> Role:
        yield block.full[0], 0
        yield block.full[1], 0

    def take_q(self, block: Block, warp: int, it: int) -> Role:
        me, (slot, phase) = ("QK", warp), self.slot_phase(it)
        yield block.full[slot], phase
        self.say_came(block, warp, it)
        self.use(block, it, me, (0, 1))
        yield None
        self.release(block, me, slot, 0)
        self.release(block, me, slot, 1)
        if self.invariant:  # nobody else says so
            self.hand_over(block, it)
            self.go(block, warp, it)
            if self.qk_waits_for_q:
                yield block.p_full[slot], phase

    def hand_over_last(self, block: Block, warp: int, item: int, piece: int) -> None:
        if self.invariant:
            self.done_with(block, piece, ("QK", warp))
        self.hand_over(block, item)
        self.go(block, warp, item)

    def finish(self, block: Block, warp: int, it: int, piece: int) -> Role:
        """Behind the last unit of a piece 1 / row sum is handed over; `it`: the next item."""
        me, (slot, phase) = ("QK", warp), self.slot_phase(it)
        yield block.sum_empty, (piece + 1) & 1
        yield block.empty[slot][0], phase ^ 1
        yield block.empty[slot][1], phase ^ 1
        if self.invariant:
            ahead, phase = self.slot_phase(it + 1)
            yield block.empty[ahead][0], phase ^ 1
            yield block.empty[ahead][1], phase ^ 1
            block.scales[ahead][warp] = ("lse", piece)
        self.done_with(block, piece, me)
        block.scales[slot][warp] = ("sum", piece)
        if self.invariant:
            block.sums[0].arrive(EVERY_FOURTH)
        else:
            self.hand_over(block, it)

    def said_end(self, block: Block, warp: int, it: int) -> Role:
        if not self.invariant:
            yield from self.go_past_q(block, warp, it)

    # ---- PV

    def pv(self, block: Block, half: int, warp: int) -> Role:
        me, cursor = ("PV", half, warp), Cursor()
        if warp == 1 and self.reads(block, half):
            yield None
            self.publish(0)
        it = piece = 0
        while True:
            while warp == 0 and cursor.item < it + self.slots + (not self.same_q(piece)):
                yield from self.fetch(block, half, cursor)
            yield self.wait_for_work(block, piece)
            n = self.read(block, piece, me)
            if n == 0:
                return
            if self.pv_waits_for_q:
                slot, phase = self.slot_phase(it)
                yield block.full[slot], phase
            it += not self.same_q(piece)
            while n > 0:
                slot, phase = self.slot_phase(it)
                yield block.full[slot], phase
                yield block.p_full[slot], phase
                assert block.scales[slot] == [it] * QK_WARPS, "scales of another unit"
                self.use(block, it, me, (half,))
                block.products[slot][half].add(me)
                n -= 1
                yield block.go[slot], phase
                yield None
                assert block.p[slot] == [it] * QK_WARPS, "P of another unit"
                if n > 0:
                    block.products[slot][half].discard(me)
                    self.release(block, me, slot, half)
                    if warp == 0:
                        yield from self.fetch(block, half, cursor)
                it += 1
            yield from self.end_piece(block, half, me, it, piece)
            if warp == 0 and self.more[piece]:
                yield from self.fetch(block, half, cursor)
            piece += 1

    def end_piece(self, block: Block, half: int, me: tuple, it: int, piece: int) -> Role:
        """Rows are folded and stored; `it`: the next item."""
        slot, phase = self.slot_phase(it)
        if self.invariant:
            if self.waits_for_sums:
                yield block.sums[0], piece & 1
        else:
            yield block.p_full[slot], phase
        assert block.scales[slot] == [("sum", piece)] * QK_WARPS, "sums of another tile"
        if self.invariant:
            assert block.scales[(it + 1) % self.slots] == [("lse", piece)] * QK_WARPS, "sums of another tile"
        block.sum_empty.arrive(self.took_sums)
        yield None
        if self.invariant:
            yield from self.fold(block, half, me, it, piece)
        self.done_with(block, piece, me)
        self.release(block, me, (it - 1) % self.slots, half)

    def fold(self, block: Block, half: int, me: tuple, it: int, piece: int) -> Role:
        """By way of the half of the last unit's slot, when nobody's product reads that any more."""
        products = block.products[(it - 1) % self.slots][half]
        products.discard(me)
        if not self.folds_at_once:
            block.joined[half].arrive()
            yield block.joined[half], piece & 1
        assert not products, "a stage that somebody reads"
        yield None

    # ---- the run

    def roles(self) -> list[Role]:
        found: list[Role] = []
        for block in self.blocks:
            found += [self.qk(block, warp) for warp in range(QK_WARPS)]
            found += [self.pv(block, half, warp) for half in range(2) for warp in range(PV_WARPS)]
        return found

    def run(self) -> None:
        """To the end, or to an AssertionError."""
        waits: dict[Role, Wait] = dict.fromkeys(self.roles())
        awake = dict.fromkeys(waits, 0)  # from when on
        while waits:
            self.now += 1
            moved = bool(self.events)
            for event in [event for event in self.events if event[0] <= self.now]:
                self.events.remove(event)
                event[1]()
            for warp in self.random.sample(list(waits), len(waits)):
                wait = waits[warp]
                if self.now < awake[warp]:
                    moved = True
                elif wait is None or wait[0].over(wait[1]):
                    moved = True
                    try:
                        waits[warp] = next(warp)
                    except StopIteration:
                        del waits[warp]
                    stalls = self.random.random() < 0.02
                    awake[warp] = self.now + self.random.randint(*(self.stalls if stalls else (0, 6)))
            assert moved, "a deadlock"
        assert not self.events, "a load that nobody waited for"
