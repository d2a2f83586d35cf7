"""A model of dense_decode's barriers, run in random order with long stalls: it never stops, and nobody reads a slot
that holds another item.

It follows dsl_kernels/components/{qk,pv,loader}.py step by step and must be changed with them; what the barriers mean
stands in barriers.py. A warp is a generator that yields what it waits for, or None where time passes; where all its
threads arrive it does so once.
"""

from __future__ import annotations

import random

import pytest

QK_WARPS, PV_WARPS = 4, 4  # the latter of each half


class Barrier:
    """An mbarrier: phases of `count` arrivals; a wait sees only the parity of the phase that is under way."""

    def __init__(self, count: int) -> None:
        self.count = self.left = count
        self.phase = 0

    def arrive(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.left, self.phase = self.count, self.phase ^ 1

    def over(self, parity: int) -> bool:
        return self.phase != parity


class Block:
    """A CTA: its barriers, and which item each slot holds."""

    def __init__(self, slots: int, cluster: int) -> None:
        self.full = [Barrier(2) for _ in range(slots)]
        self.empty = [[Barrier(4 * cluster) for _ in range(2)] for _ in range(slots)]
        self.p_full = [Barrier(QK_WARPS) for _ in range(slots)]
        self.qk_done = [Barrier(1) for _ in range(slots)]
        self.sum_full, self.sum_empty = Barrier(QK_WARPS), Barrier(2 * PV_WARPS)
        self.holds = [-1] * slots
        self.missing: dict[tuple[int, int], int] = {}  # (item, half): blocks whose boxes have not come


class Model:
    pv_waits_for_q = False

    def __init__(self, tiles: list[int], slots: int, cluster: int, seed: int) -> None:
        self.tiles, self.slots, self.cluster = tiles, slots, cluster
        self.random = random.Random(seed)
        self.blocks = [Block(slots, cluster) for _ in range(cluster)]
        self.is_unit = [unit for units in tiles for unit in [False] + [True] * units]
        self.loads: list[tuple[int, Block, int, int]] = []  # that are under way: (when it lands, block, item, half)
        self.now = 0

    def place(self, item: int) -> tuple[int, int]:
        return item % self.slots, item // self.slots & 1

    def release(self, slot: int, half: int) -> None:
        for block in self.blocks:
            block.empty[slot][half].arrive()

    def fetch(self, block: Block, half: int, item: int):
        """Starts the loads of half an item; a unit comes for the whole cluster."""
        if item < len(self.is_unit):
            slot, phase = self.place(item)
            yield block.empty[slot][0], phase ^ 1
            if half == 1:
                yield block.empty[slot][1], phase ^ 1
            for target in self.blocks if self.is_unit[item] else [block]:
                self.loads.append((self.now + self.random.randint(1, 40), target, item, half))

    def land(self) -> None:
        for load in [load for load in self.loads if load[0] <= self.now]:
            self.loads.remove(load)
            _, block, item, half = load
            boxes = self.cluster if self.is_unit[item] else 1
            left = block.missing[item, half] = block.missing.get((item, half), boxes) - 1
            if left == 0:
                block.full[item % self.slots].arrive()
                if block.missing.get((item, 1 - half)) == 0:
                    block.holds[item % self.slots] = item

    def hand_over(self, block: Block, unit: int) -> None:
        block.p_full[unit % self.slots].arrive()

    def go(self, block: Block, warp: int, unit: int) -> None:
        if warp == 0:
            block.qk_done[unit % self.slots].arrive()

    def qk(self, block: Block, warp: int):
        it = units = 0
        for n in self.tiles:
            slot, phase = self.place(it)
            yield block.full[slot], phase
            assert block.holds[slot] == it
            yield None
            self.release(slot, 0)
            self.release(slot, 1)
            it += 1
            begun = here = False
            for _ in range(n):
                slot, phase = self.place(it)
                if not here:
                    if begun:
                        self.hand_over(block, units - 1)
                        self.go(block, warp, units - 1)
                    yield block.full[slot], phase
                assert block.holds[slot] == it
                yield None
                if here:
                    self.hand_over(block, units - 1)
                yield block.sum_empty, (it - units) & 1
                yield None
                if here:
                    self.go(block, warp, units - 1)
                it, units, begun = it + 1, units + 1, True
                slot, phase = self.place(it)
                here = block.full[slot].over(phase)
                yield None
            if begun:
                self.hand_over(block, units - 1)
                self.go(block, warp, units - 1)
            slot, phase = self.place(it)
            yield block.sum_empty, (it - units) & 1
            yield block.empty[slot][0], phase ^ 1
            yield block.empty[slot][1], phase ^ 1
            block.sum_full.arrive()
            yield None

    def pv(self, block: Block, half: int, warp: int):
        it = units = item = 0
        for n in self.tiles:
            while warp == 0 and item <= it + self.slots:
                yield from self.fetch(block, half, item)
                item += 1
            if self.pv_waits_for_q:
                slot, phase = self.place(it)
                yield block.full[slot], phase
            it += 1
            for j in range(n):
                slot, phase = self.place(it)
                place, turn = self.place(units)
                yield block.p_full[place], turn
                yield block.full[slot], phase
                assert block.holds[slot] == it
                yield block.qk_done[place], turn
                yield None
                if j < n - 1:
                    self.release(slot, half)
                    if warp == 0:
                        yield from self.fetch(block, half, item)
                        item += 1
                it, units = it + 1, units + 1
            yield block.sum_full, (it - units - 1) & 1
            block.sum_empty.arrive()
            yield None
            if n > 0:
                self.release((it - 1) % self.slots, half)

    def run(self) -> None:
        """To the end, or to an AssertionError."""
        warps = []
        for block in self.blocks:
            warps += [self.qk(block, warp) for warp in range(QK_WARPS)]
            warps += [self.pv(block, half, warp) for half in range(2) for warp in range(PV_WARPS)]
        waits = dict.fromkeys(warps)  # for what: (barrier, parity)
        awake = dict.fromkeys(warps, 0)  # from when on
        while waits:
            self.now += 1
            self.land()
            moved = bool(self.loads)
            for warp in self.random.sample(list(waits), len(waits)):
                if self.now < awake[warp]:
                    moved = True
                elif waits[warp] is None or waits[warp][0].over(waits[warp][1]):
                    moved = True
                    try:
                        waits[warp] = next(warp)
                    except StopIteration:
                        del waits[warp]
                    stalls = self.random.random() < 0.02
                    awake[warp] = self.now + self.random.randint(*((50, 400) if stalls else (0, 6)))
            assert moved, "a deadlock"


@pytest.mark.parametrize("cluster", [1, 2])
@pytest.mark.parametrize("slots", [3, 5])
def test_no_deadlock_and_the_right_items(slots, cluster):
    for seed in range(40):
        draw = random.Random(seed)
        tiles = [draw.choice([0, 0, 1, 1, 2, 3, 4, 5, 7]) for _ in range(draw.randint(1, 12))]
        Model(tiles, slots, cluster, seed).run()


def test_a_wait_for_a_phase_that_may_pass_twice_is_found():
    """QK alone gives Q's slot back, which may be filled again before PV looks."""

    class Careless(Model):
        pv_waits_for_q = True

    def run() -> None:
        for seed in range(200):
            Careless([7] * 6, 3, 1, seed).run()

    with pytest.raises(AssertionError, match="a deadlock"):
        run()
