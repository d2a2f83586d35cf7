"""The barriers of dense_decode: which there are, who arrives how often, in which phase; and the numbers of bar.sync.

tests/unit/test_barriers.py runs a model of them.

The ring. Items (Q of a tile, then its units) take the slots in turn. Each passes these once, in its own slot:

  full           2 arrivals, and bytes. The two loaders of this CTA, each announcing its half's bytes; in a cluster the
                 peer's multicast brings half of them. Waited for by QK, and by PV where the item is a unit.
  empty, twice   128 x cluster for each half of the columns: a warpgroup of every CTA, since a loader fills the slots
                 of all; every thread, because racecheck does not see what a warp does before one lane arrives for it.
                 Of Q both halves by QK, once Q is in its own place; of a unit each half by its PV warpgroup, once the
                 product is done. Waited for by the loaders: the left one for the left half, the right one for both,
                 because it loads the RoPE part, which P lies over and both halves of PV read. In the last unit of a
                 piece a warpgroup gives its half back only after the rows are stored, because they are turned round in
                 it (epilogue.store_rows).

An item's phase in its slot is (item / slots) & 1. Who waits until a slot is empty wants the item before to have left,
so the other phase, which a new barrier counts as over.

The units, counted by themselves, take `slots` of these in turn, with phases alike:

  p_full         32: every fourth thread of QK. P and scales of the unit are in shared memory. Waited for by PV.
  qk_done        1: warp 0 of QK. PV of the unit may start: S of the next one is nearly done, or that one is late.
                 Waited for by PV.

A wait sees which of two phases it is, no more: who comes so late that the next one is over too waits for ever. So a
barrier's next phase must need an arrival that follows the wait. That is why PV waits for nothing of Q: QK alone gives
Q's slot back, and could be three units ahead. For p_full and qk_done it holds because QK, before it comes to the unit
three further, has taken the item that followed this unit in its slot.

The end of a tile, one of each for the CTA, a phase a tile:

  sum_full       32: every fourth thread of QK. 1 / row sum is in the scales of the slot of the next Q, which has none
                 of its own, and where the rows go in sBase and sNarrow. Waited for by PV.
  sum_empty      8: the warps of PV, which have read 1 / row sum. Waited for by QK.

The phase of tile i is i & 1; QK waits for sum_empty of the tile before, so in the other one. It does so before it
writes a unit's scales, which may lie where that tile's 1 / row sum is, and before it writes the next 1 / row sum;
for that it also waits until the slot is empty, when the scales that were there have been read. sBase and sNarrow exist
twice, since PV stores a tile's rows after it has arrived at sum_empty.
"""

from enum import IntEnum

import cutlass
import cutlass.cute as cute
from cutlass import const_expr

from dsl_kernels.core.threads import opaque


class NamedBarrier(IntEnum):
    """Numbers of bar.sync; 0 belongs to sync_threads. Each is of one warpgroup."""

    QK = 1
    PV_LEFT = 2
    PV_RIGHT = 3


class Barriers:
    """Addresses of the barriers in shared memory, and the ways to arrive at them."""

    def __init__(self, slots, cluster):
        self.slots, self.cluster = slots, cluster
        self.count = 5 * slots + 2

    def lie_at(self, start):
        """`start`: where they lie; once in a kernel, before anything else."""
        self.start = start

    def full(self, slot):
        return self.start + slot

    def empty(self, slot, half):
        return self.start + self.slots + 2 * slot + half

    def p_full(self, slot):
        return self.start + 3 * self.slots + slot

    def qk_done(self, slot):
        return self.start + 4 * self.slots + slot

    def sum_full(self):
        return self.start + 5 * self.slots

    def sum_empty(self):
        return self.start + 5 * self.slots + 1

    def slot_phase(self, item):
        return item % self.slots, (item // self.slots) & 1

    @cute.jit
    def init(self):
        """By one warp."""
        with cute.arch.elect_one():
            for slot in cutlass.range_constexpr(self.slots):
                cute.arch.mbarrier_init(self.full(slot), 2)
                cute.arch.mbarrier_init(self.empty(slot, 0), 128 * self.cluster)
                cute.arch.mbarrier_init(self.empty(slot, 1), 128 * self.cluster)
                cute.arch.mbarrier_init(self.p_full(slot), 32)
                cute.arch.mbarrier_init(self.qk_done(slot), 1)
            cute.arch.mbarrier_init(self.sum_full(), 32)
            cute.arch.mbarrier_init(self.sum_empty(), 8)

    @cute.jit
    def release(self, slot, half):
        """This thread is done with half of a slot: one arrival in every CTA of the cluster."""
        bar = self.empty(slot, half)
        cute.arch.sync_warp()  # the lanes in one instruction
        if const_expr(self.cluster > 1):
            for c in cutlass.range_constexpr(self.cluster):
                cute.arch.mbarrier_arrive(bar, c)
        else:
            cute.arch.mbarrier_arrive(bar)

    @cute.jit
    def sync_half(self, half):
        """Waits for the other warps of the PV warpgroup of a half."""
        cute.arch.barrier(barrier_id=NamedBarrier.PV_LEFT + opaque(half), number_of_threads=128)

    @cute.jit
    def arrive(self, bar):
        """One arrival of this warp."""
        with cute.arch.elect_one():
            cute.arch.mbarrier_arrive(bar)

    @cute.jit
    def arrive_quads(self, bar):
        """One arrival of every fourth lane: those that write the scales of their rows."""
        tid, _, _ = cute.arch.thread_idx()
        cute.arch.sync_warp()
        if (tid & 3) == 0:
            cute.arch.mbarrier_arrive(bar)
