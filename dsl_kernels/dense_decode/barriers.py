"""The barriers of dense_decode: why their phases agree; addresses, and the ways to arrive; and the numbers of bar.sync.

Which there are, who arrives and who waits stands in barrier_table.py.

The ring. Items (Q of a tile, then its units) take the slots in turn. Each passes `full` and, for each half of the
columns, `empty` once, in its own slot. The right loader waits for both halves, because it loads the RoPE part, which P
lies over and both halves of PV read. QK gives Q back once Q is in its own place, PV a half of a unit once the product
is done; in the last unit of a piece only after the rows are stored, because they are turned round in that half
(epilogue.store_rows).

An item's phase in its slot is (item / slots) & 1. Who waits until a slot is empty wants the item before to have left,
so the other phase, which a new barrier counts as over.

The units, counted by themselves, take p_full and qk_done in turn, with phases alike.

A wait sees which of two phases it is, no more: who comes so late that the next one is over too waits for ever. So a
barrier's next phase must need an arrival that follows the wait. That is why PV waits for nothing of Q: QK alone gives
Q's slot back, and could be three units ahead. For p_full and qk_done it holds because QK, before it comes to the unit
three further, has taken the item that followed this unit in its slot.

The end of a tile is a phase of sum_full and of sum_empty: that of tile i is i & 1. 1 / row sum lies in the scales of
the slot of the next Q, which has none of its own. QK waits for sum_empty of the tile before, so in the other phase. It
does so before it writes a unit's scales, which may lie where that tile's 1 / row sum is, and before it writes the next
1 / row sum; for that it also waits until the slot is empty, when the scales that were there have been read. sBase and
sNarrow exist twice, since PV stores a tile's rows after it has arrived at sum_empty.
"""

from enum import IntEnum

import cutlass
import cutlass.cute as cute
from cutlass import const_expr

from dsl_kernels.core.threads import opaque

from . import barrier_table
from .barrier_table import BARRIERS

RING = [barrier for barrier in BARRIERS if barrier.of != "CTA"]
ALONE = [barrier for barrier in BARRIERS if barrier.of == "CTA"]


class NamedBarrier(IntEnum):
    """Numbers of bar.sync; 0 belongs to sync_threads. Each is of one warpgroup."""

    QK = 1
    PV_LEFT = 2
    PV_RIGHT = 3


class Barriers:
    """Addresses of the barriers in shared memory, and the ways to arrive at them."""

    def __init__(self, slots, cluster):
        self.slots, self.cluster = slots, cluster

    def lie_at(self, start):
        """`start`: where they lie; once in a kernel, before anything else."""
        self.start = start

    def first(self, name):
        return self.start + barrier_table.first(name, self.slots)

    def full(self, slot):
        return self.first("full") + slot

    def empty(self, slot, half):
        return self.first("empty") + 2 * slot + half

    def p_full(self, slot):
        return self.first("p_full") + slot

    def qk_done(self, slot):
        return self.first("qk_done") + slot

    def sum_full(self):
        return self.first("sum_full")

    def sum_empty(self):
        return self.first("sum_empty")

    def slot_phase(self, item):
        return item % self.slots, (item // self.slots) & 1

    @cute.jit
    def init(self):
        """By one warp."""
        with cute.arch.elect_one():
            for slot in cutlass.range_constexpr(self.slots):
                for barrier in RING:
                    each = barrier.number(1)
                    for i in cutlass.range_constexpr(each):
                        where = self.first(barrier.name) + each * slot + i
                        cute.arch.mbarrier_init(where, barrier.count(self.cluster))
            for barrier in ALONE:
                cute.arch.mbarrier_init(self.first(barrier.name), barrier.count(self.cluster))

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
