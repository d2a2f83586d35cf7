"""The model of the roles where a warpgroup of its own fetches rows.

They follow dsl_kernels/dense_decode/{producer,fed_pv}.py step by step and must be changed with them.
"""

from __future__ import annotations

import functools

from dsl_kernels.dense_decode.barrier_table import producing
from ops.dense_decode.barrier_model import EVERY_LANE, HALF, ONE_LANE, PV_WARPS, Block, Mbarrier, Model, Role

PRODUCER_WARPS = 4
SHARE = 100  # bytes that a warp of PV copies to the other CTA


class ProducerModel(Model):
    """copies_arrive: rows need no conversion, and their copies arrive for the threads. turns: RoPE parts and P have two
    slices, which items take in turn.
    """

    copies_arrive = turns = False
    took_sums = ONE_LANE
    barriers = producing(copies_arrive=False)
    waits_for_rows = True

    def await_unused(self, _block: Block) -> Role:
        """Nothing is fetched without work."""
        yield from ()

    def come_of(self, block: Block, item: int) -> Mbarrier:
        return block.made["full" if self.copies_arrive else "fetched"][item % self.slots]

    # ---- the producer

    def await_room(self, block: Block, item: int) -> Role:
        slot, phase = self.slot_phase(item)
        for half in range(2):
            yield block.empty[slot][half], phase ^ 1

    def await_place(self, block: Block, item: int) -> Role:
        """Where rows of a unit come."""
        yield from self.await_room(block, item)

    def await_rest(self, _block: Block, _item: int) -> Role:
        """All that the next record depends on is waited for."""
        yield from ()

    def has_arrived(self, _block: Block, _item: int) -> Role:
        """Time passes behind a warp's last arrival for a unit."""
        yield None

    def producer(self, block: Block, warp: int) -> Role:
        me = ("producer", warp)
        reads = warp == 0 and block is self.blocks[0]
        if reads:
            yield None
            self.publish(0)
        item = piece = 0
        yield self.wait_for_work(block, piece)
        units = self.read(block, piece, me)
        while units > 0:
            yield from self.give_q(block, warp, item)
            item += 1
            for unit in range(units):
                yield from self.await_place(block, item)
                slot = item % self.slots
                assert not any(block.users[slot]), "a slot is overwritten that somebody reads"
                if warp == 0:
                    self.announce(block, item)
                yield None
                if unit == units - 1 and not self.turns:
                    self.done_with(block, piece, me)
                self.come_of(block, item).arrive(ONE_LANE)
                if unit == units - 1:
                    yield from self.await_rest(block, item)
                self.later(functools.partial(self.come_rows, block, item))
                yield from self.has_arrived(block, item)
                if unit > 0:
                    self.start_rope(block, warp, item - 1)
                item += 1
            yield from self.await_room(block, item)
            if self.turns:
                self.done_with(block, piece, me)
            self.start_rope(block, warp, item - 1)
            yield from self.await_last(block, item)
            piece += 1
            if reads:
                yield None
                self.publish(piece)
            yield self.wait_for_work(block, piece)
            units = self.read(block, piece, me)

    def give_q(self, block: Block, warp: int, item: int) -> Role:
        slot, phase = self.slot_phase(item)
        if warp < 2:
            assert not block.users[slot][warp], "a slot is overwritten that somebody reads"
            block.full[slot].bytes += HALF
            self.later(functools.partial(self.come_q, block, warp, item))
        come = self.come_of(block, item)
        come.arrive(EVERY_LANE)
        come.arrive(ONE_LANE)
        if not self.copies_arrive:
            block.full[slot].arrive(2 * EVERY_LANE)
            yield come, phase
        yield from self.pass_rope(block, item)
        yield None

    def come_q(self, block: Block, half: int, item: int) -> None:
        block.holds[item % self.slots][half] = item
        block.full[item % self.slots].come(HALF)

    def come_rows(self, block: Block, item: int) -> None:
        """A warp's rows of a unit are there."""
        parts = block.boxes[item, 0] = block.boxes.get((item, 0), 0) + 1
        if self.copies_arrive and parts == PRODUCER_WARPS:
            block.holds[item % self.slots][:] = item, item
        self.come_of(block, item).arrive(EVERY_LANE)

    # ---- PV

    def announce(self, _block: Block, _item: int) -> None:
        """Nobody else brings anything."""

    def start_rope(self, _block: Block, _warp: int, _item: int) -> None:
        """It comes with the other columns."""

    def await_last(self, _block: Block, _item: int) -> Role:
        yield from ()

    def pass_rope(self, _block: Block, _item: int) -> Role:
        yield from ()

    def make(self, block: Block, me: tuple, item: int) -> Role:
        _, half, _ = me
        slot, phase = self.slot_phase(item)
        if self.waits_for_rows:
            yield self.come_of(block, item), phase
        assert block.boxes.get((item, 0)) == PRODUCER_WARPS, "codes that have not come"
        yield None
        yield from self.await_other_place(block, half, item)
        self.has_made(block, half, item)
        block.full[slot].arrive(EVERY_LANE)

    def await_other_place(self, _block: Block, _half: int, _item: int) -> Role:
        """What is made is for this CTA alone."""
        yield from ()

    def has_made(self, block: Block, _half: int, item: int) -> None:
        """Rows of its own, all their columns."""
        for half in range(2):
            self.made(block, half, item, 2 * PV_WARPS)

    def made(self, block: Block, half: int, item: int, parts: int) -> None:
        """One part more of half an item, which has so many, is numbers."""
        block.boxes[item, "made", half] = made = block.boxes.get((item, "made", half), 0) + 1
        if made == parts:
            block.holds[item % self.slots][half] = item

    def pv(self, block: Block, half: int, warp: int) -> Role:
        me = ("PV", half, warp)
        it = piece = 0
        yield self.wait_for_work(block, piece)
        n = self.read(block, piece, me)
        while n > 0:
            if not self.copies_arrive:
                for item in range(1 if it == 0 else it + 2, it + (3 if n > 1 else 2)):
                    yield from self.make(block, me, item)
            it += 1
            while n > 0:
                slot, phase = self.slot_phase(it)
                yield block.full[slot], phase
                yield block.p_full[slot], phase
                self.use(block, it, me, (half,))
                if self.copies_arrive:
                    yield block.go[slot], phase
                yield None
                assert block.p[slot] == [it] * len(block.p[slot]), "P of another unit"
                follows = n > 2
                if n == 1 and not self.copies_arrive:
                    yield self.wait_for_work(block, piece + 1)
                    follows = self.read(block, piece + 1, me) > 0
                if n > 1:
                    self.release(block, me, slot, half)
                if follows and not self.copies_arrive:
                    yield from self.make(block, me, it + 2)
                it, n = it + 1, n - 1
            yield from self.end_piece(block, half, me, it, piece)
            piece += 1
            yield self.wait_for_work(block, piece)
            n = self.read(block, piece, me)

    def roles(self) -> list[Role]:
        return super().roles() + [self.producer(block, warp) for block in self.blocks for warp in range(PRODUCER_WARPS)]


class CopiesArrive(ProducerModel):
    copies_arrive = True
    barriers = producing(copies_arrive=True)


class Turns(ProducerModel):
    turns = True
    barriers = producing(copies_arrive=False, turns=True)
    waits_for_last = waits_for_rope = True

    def __init__(self, *args) -> None:
        super().__init__(*args)
        # of each CTA: whose RoPE part a warp's rows there are
        self.ropes = {id(block): [[None] * PRODUCER_WARPS for _ in range(2)] for block in self.blocks}

    def rope(self, block: Block, item: int) -> Mbarrier:
        return block.made["rope"][item % 2]

    def await_last(self, block: Block, item: int) -> Role:
        if self.waits_for_last:
            yield from self.await_room(block, item + self.slots - 2)

    def put_rope(self, block: Block, warps: range, item: int) -> None:
        if item > 1:
            users = [user for half in block.users[(item - 2) % self.slots] for user in half]
            assert all(user[0] == "copy" for user in users), "P is overwritten that somebody reads"
        for warp in warps:
            self.ropes[id(block)][item % 2][warp] = item

    def come_q(self, block: Block, half: int, item: int) -> None:
        if half == 1:
            self.put_rope(block, range(PRODUCER_WARPS), item)
        super().come_q(block, half, item)

    def pass_rope(self, block: Block, item: int) -> Role:
        """Of a Q it comes with the rest."""
        self.rope(block, item).arrive(EVERY_LANE)
        yield self.rope(block, item), item // 2 & 1

    def start_rope(self, block: Block, warp: int, item: int) -> None:
        self.put_rope(block, range(warp, warp + 1), item)
        self.later(functools.partial(self.rope(block, item).arrive, EVERY_LANE))

    def await_rope(self, block: Block, item: int) -> Role:
        if self.waits_for_rope:
            yield self.rope(block, item), item // 2 & 1
        assert self.ropes[id(block)][item % 2] == [item] * PRODUCER_WARPS, "the RoPE part of another item"


class Pair(ProducerModel):
    """Each CTA makes half of the rows of a unit, and copies what a warp has made to the other one."""

    ctas = 2
    barriers = producing(copies_arrive=False, paired=True)
    copies_take = 1, 20, 400  # steps
    announces = waits_for_pair = waits_for_copies = waits_for_place = waits_for_rest = True

    def free(self, block: Block, item: int) -> Mbarrier:
        return block.made["free"][item % self.slots]

    def say_came(self, block: Block, warp: int, item: int) -> None:
        if warp == 0:
            self.free(next(other for other in self.blocks if other is not block), item).arrive(ONE_LANE)

    def await_room(self, block: Block, item: int) -> Role:
        yield from self.await_place(block, item)
        yield from super().await_room(block, item)

    def await_place(self, block: Block, item: int) -> Role:
        yield self.free(block, item), self.slot_phase(item)[1] ^ 1

    def await_rest(self, block: Block, item: int) -> Role:
        if self.waits_for_rest:
            yield from self.await_room(block, item)

    def await_other_place(self, block: Block, half: int, item: int) -> Role:
        slot, phase = self.slot_phase(item)
        if self.waits_for_place:
            yield block.empty[slot][half], phase ^ 1

    def end_piece(self, block: Block, half: int, me: tuple, it: int, piece: int) -> Role:
        """Rows are staged over what a warp has made of the last unit, when nobody copies that any more."""
        slot, phase = self.slot_phase(it)
        yield block.p_full[slot], phase
        for target in self.blocks:
            target.sum_empty.arrive(self.took_sums)
        if self.waits_for_copies:
            yield block.sum_empty, piece & 1
        last = (it - 1) % self.slots
        assert not any(user[0] == "copy" for user in block.users[last][half]), "rows are staged over what is copied"
        yield None
        self.done_with(block, piece, me)
        self.release(block, me, last, half)

    def release(self, block: Block, warp: object, slot: int, half: int) -> None:
        block.users[slot][half].discard(warp)
        self.free(block, slot).arrive(EVERY_LANE)
        if self.waits_for_pair:
            super().release(block, warp, slot, half)
        else:
            block.empty[slot][half].arrive(2 * EVERY_LANE)

    def announce(self, block: Block, item: int) -> None:
        if self.announces:
            block.full[item % self.slots].bytes += 2 * PV_WARPS * SHARE

    def has_made(self, block: Block, half: int, item: int) -> None:
        for target in self.blocks:
            if target is block:
                self.made(block, half, item, 2 * PV_WARPS)
            else:
                users = target.users[item % self.slots][half]  # the slices that a warp makes are of its own half
                assert all(user[0] == "copy" for user in users), "a slot is overwritten that somebody reads"
                copy = ("copy", self.now, len(self.events))
                block.users[item % self.slots][half].add(copy)
                come = functools.partial(self.come_made, block, copy, target, half, item)
                self.events.append((self.now + self.random.choice(self.copies_take), come))

    def come_made(self, source: Block, copy: tuple, block: Block, half: int, item: int) -> None:
        source.users[item % self.slots][half].discard(copy)
        self.made(block, half, item, 2 * PV_WARPS)
        block.full[item % self.slots].come(SHARE)


class PairTurns(Pair, Turns):
    barriers = producing(copies_arrive=False, turns=True, paired=True)
