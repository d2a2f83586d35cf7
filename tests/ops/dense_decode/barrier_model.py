"""A model of the roles of dense_decode and its barriers, run in random order with long stalls. It stops with an
AssertionError where a wait never ends, or where somebody finds in shared memory what he does not expect.

The barriers are those of the kernel's table. The roles follow dsl_kernels/dense_decode/{qk,pv,loader}.py step by step
and must be changed with them. A warp is a generator that yields what it waits for, or None where time passes; its
threads arrive together.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from dsl_kernels.dense_decode.barrier_table import BARRIERS, Barrier

QK_WARPS, PV_WARPS = 4, 4  # the latter of each half
# arrivals of a warp, as barriers.py has them
ONE_LANE, EVERY_FOURTH, EVERY_LANE = 1, 8, 32
HALF = 1000  # bytes that come for half an item


class Mbarrier:
    """Phases of `count` arrivals and all announced bytes; a wait sees only the parity of the phase under way."""

    def __init__(self, count: int) -> None:
        self.count = self.missing = count
        self.bytes = self.phase = 0

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
            self.missing, self.phase = self.count, self.phase ^ 1

    def over(self, parity: int) -> bool:
        return self.phase != parity


Wait = tuple[Mbarrier, int] | None
Role = Iterator[Wait]


class Block:
    """A CTA: its barriers, and what lies in its shared memory."""

    def __init__(self, barriers: tuple[Barrier, ...], slots: int, cluster: int) -> None:
        made = {b.name: [Mbarrier(b.count(cluster)) for _ in range(b.number(slots))] for b in barriers}
        self.full, self.p_full, self.qk_done = made["full"], made["p_full"], made["qk_done"]
        self.empty = [made["empty"][2 * slot : 2 * slot + 2] for slot in range(slots)]
        (self.sum_full,), (self.sum_empty,) = made["sum_full"], made["sum_empty"]
        self.holds = [[-1, -1] for _ in range(slots)]  # the item whose half has come
        self.coming: dict[tuple[int, int], int] = {}  # (item, half): boxes that have come
        self.users: list[list[set]] = [[set(), set()] for _ in range(slots)]  # warps that read half a slot
        self.p: list[list] = [[None] * QK_WARPS for _ in range(slots)]  # the unit of which a warp's rows of P lie there
        self.scales: list[list] = [[None] * QK_WARPS for _ in range(slots)]
        self.where = [-1, -1]  # the tile whose rows' addresses lie there


class Model:
    barriers = BARRIERS
    pv_waits_for_q = False

    def __init__(self, tiles: list[int], slots: int, cluster: int, seed: int) -> None:
        """tiles: units of each."""
        self.tiles, self.slots, self.cluster = tiles, slots, cluster
        self.random = random.Random(seed)
        self.blocks = [Block(self.barriers, slots, cluster) for _ in range(cluster)]
        self.is_unit = [unit for units in tiles for unit in [False] + [True] * units]
        self.loads: list[tuple[int, Block, int, int]] = []  # that are under way: (when it lands, block, item, half)
        self.now = 0

    def slot_phase(self, item: int) -> tuple[int, int]:
        return item % self.slots, item // self.slots & 1

    def release(self, block: Block, warp: object, slot: int, half: int) -> None:
        block.users[slot][half].discard(warp)
        for target in self.blocks:
            target.empty[slot][half].arrive(EVERY_LANE)

    # ---- loads

    def fetch(self, block: Block, half: int, item: int) -> Role:
        """Starts the loads of half an item; a unit comes for the whole cluster."""
        if item < len(self.is_unit):
            slot, phase = self.slot_phase(item)
            yield block.empty[slot][0], phase ^ 1
            if half == 1:
                yield block.empty[slot][1], phase ^ 1
            block.full[slot].arrive(ONE_LANE, HALF)
            for target in self.blocks if self.is_unit[item] else [block]:
                assert not target.users[slot][half], "a slot is overwritten that somebody reads"
                self.loads.append((self.now + self.random.randint(1, 40), target, item, half))

    def land(self) -> None:
        for load in [load for load in self.loads if load[0] <= self.now]:
            self.loads.remove(load)
            _, block, item, half = load
            boxes, slot = self.cluster if self.is_unit[item] else 1, item % self.slots
            come = block.coming[item, half] = block.coming.get((item, half), 0) + 1
            if come == boxes:
                block.holds[slot][half] = item
            block.full[slot].come(HALF // boxes)

    # ---- QK

    def hand_over(self, block: Block, unit: int) -> None:
        block.p_full[unit % self.slots].arrive(EVERY_FOURTH)

    def go(self, block: Block, warp: int, unit: int) -> None:
        if warp == 0:
            block.qk_done[unit % self.slots].arrive(ONE_LANE)

    def use(self, block: Block, item: int, warp: object, halves: tuple[int, ...]) -> None:
        for half in halves:
            assert block.holds[item % self.slots][half] == item, "another item than the expected one"
            block.users[item % self.slots][half].add(warp)

    def qk(self, block: Block, warp: int) -> Role:
        me = ("QK", warp)
        it = units = 0
        for tile, n in enumerate(self.tiles):
            slot, phase = self.slot_phase(it)
            yield block.full[slot], phase
            self.use(block, it, me, (0, 1))
            yield None
            self.release(block, me, slot, 0)
            self.release(block, me, slot, 1)
            it += 1
            begun = here = False
            for _ in range(n):
                slot, phase = self.slot_phase(it)
                if not here:
                    if begun:
                        self.hand_over(block, units - 1)
                        self.go(block, warp, units - 1)
                    yield block.full[slot], phase
                self.use(block, it, me, (0, 1))
                yield None
                if here:
                    self.hand_over(block, units - 1)
                yield block.sum_empty, (it - units) & 1
                yield None
                if here:
                    self.go(block, warp, units - 1)
                block.users[slot][0].discard(me)
                block.users[slot][1].discard(me)
                yield None
                block.p[slot][warp], block.scales[slot][warp] = it, it
                it, units, begun = it + 1, units + 1, True
                slot, phase = self.slot_phase(it)
                here = block.full[slot].over(phase)
                yield None
            if begun:
                self.hand_over(block, units - 1)
                self.go(block, warp, units - 1)
            slot, phase = self.slot_phase(it)
            yield block.sum_empty, (it - units) & 1
            yield block.empty[slot][0], phase ^ 1
            yield block.empty[slot][1], phase ^ 1
            block.scales[slot][warp] = ("sum", tile)
            if warp == 0:
                block.where[tile & 1] = tile
            block.sum_full.arrive(EVERY_FOURTH)
            yield None

    # ---- PV

    def pv(self, block: Block, half: int, warp: int) -> Role:
        me = ("PV", half, warp)
        it = units = item = 0
        for tile, n in enumerate(self.tiles):
            while warp == 0 and item <= it + self.slots:
                yield from self.fetch(block, half, item)
                item += 1
            if self.pv_waits_for_q:
                slot, phase = self.slot_phase(it)
                yield block.full[slot], phase
            it += 1
            for j in range(n):
                slot, phase = self.slot_phase(it)
                unit_slot, unit_phase = self.slot_phase(units)
                yield block.p_full[unit_slot], unit_phase
                assert block.scales[slot] == [it] * QK_WARPS, "scales of another unit"
                yield block.full[slot], phase
                self.use(block, it, me, (half,))
                yield block.qk_done[unit_slot], unit_phase
                yield None
                assert block.p[slot] == [it] * QK_WARPS, "P of another unit"
                if j < n - 1:
                    self.release(block, me, slot, half)
                    if warp == 0:
                        yield from self.fetch(block, half, item)
                        item += 1
                it, units = it + 1, units + 1
            yield block.sum_full, tile & 1
            slot, _ = self.slot_phase(it)
            assert block.scales[slot] == [("sum", tile)] * QK_WARPS, "sums of another tile"
            block.sum_empty.arrive(ONE_LANE)
            yield None
            assert block.where[tile & 1] == tile, "rows of another tile"
            if n > 0:
                self.release(block, me, (it - 1) % self.slots, half)

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
            self.land()
            moved = bool(self.loads)
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
                    awake[warp] = self.now + self.random.randint(*((50, 400) if stalls else (0, 6)))
            assert moved, "a deadlock"
        assert not self.loads, "a load that nobody waited for"
