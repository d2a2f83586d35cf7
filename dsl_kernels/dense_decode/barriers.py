"""The barriers of dense_decode: why their phases agree; addresses, and the ways to arrive; and the numbers of bar.sync.

Which there are, who arrives and who waits stands in barrier_table.py.

The ring. Items (Q of a tile, then its units, of which there is at least one) take the slots in turn. Each passes these
once, in its own slot: `full`; for each half of the columns, `empty`; p_full and, where there is one, qk_done. QK gives
Q back once Q is in its own place, PV a half of a unit once the product is done; in the last unit of a piece only after
the rows are stored, because they are turned round in that half (epilogue.store_rows). The right loader waits for both
halves, because it loads the RoPE part, which P lies over and both halves of PV read.

Batch-invariant calls go on with a tile piece after piece, in its CTA, with the same Q (invariant.MORE; the next has
SAME_Q). Such a piece has no Q item: its first unit follows the last one of the piece before, which PV gives back when
it has folded by way of it (carries.py), before the rows are stored.

An item's phase in its slot is (item / slots) & 1. Who waits until a slot is empty wants the item before to have left,
so the other phase, which a new barrier counts as over.

A wait sees which of two phases it is, no more: who comes so late that the next one is over too waits for ever. So a
barrier's next phase must need an arrival that follows the wait. That is why PV waits for nothing that the loaders say
of Q: QK alone gives Q's slot back, and could be three units ahead. For p_full and qk_done it holds because QK, before
it arrives for the next item in a slot, waits until PV has left the slot: if that is a unit, for its coming; if it is a
Q, until both halves are empty.

Every phase is waited for by somebody before the next one is over, though the algorithm does not need it of all: one
that nobody waits for looks like a fault, to compute-sanitizer too. What tells nobody anything, qk_done of a Q and
p_full of the first Q, QK waits for itself, when its own arrivals have ended the phase; PV could come so late that QK is
three units ahead.

PV waits for `full` of a unit before p_full. It cannot take an older phase for it: the unit that had the slot before it
had itself; and if that was a Q, it had the unit behind, whose P came when QK had taken the Q.

Where codes are made of a producer's rows, and in batch-invariant calls, one barrier tells PV that P is there and that
it may start: for the latter warp 0 of QK arrives once more at p_full.

The end of a tile is said in p_full of the next Q, in the slot whose scales then hold 1 / row sum: a Q has no scales.
(For the first Q of all QK arrives at once.) That they have been read is a phase of sum_empty, i & 1 for tile i. QK
waits for that of the tile before before it writes a unit's scales, which may lie where that tile's 1 / row sum is, and
before it writes the next 1 / row sum.

In batch-invariant calls 1 / row sum lies in the scales of the item behind the piece, too, be it a Q or a unit, and the
rows' log-sum-exps in those of the item behind that: QK waits until what had that slot before has left. The scales of
units there it writes after sum_empty, as any. That sums of piece i are there is phase i & 1 of `sums`; QK says so again
only after sum_empty, when all have waited for that. Then p_full of a Q tells nobody anything, and QK waits for it
itself.

Work records (work.py). That of piece i is record i % records, its phase (i / records) & 1. The reader is the right
loader of rank 0 (for the first record of all, the warp beside it; in sparse_decode before the roles begin). It writes
the record of a piece where it fetches its first item, e, so after its wait until e's slot is empty. It has waited
so for both halves of every item before, hence in every CTA all items up to e - slots are done with. A piece has at
least two items: the one that had the record before, `records` pieces earlier, ended with item e - 2 (records - 1) - 1
or before, which is e - slots or before. That item is the last unit of its piece, given back by all threads of both PV
warpgroups of every CTA after their rows were stored, or folded where the part goes on with the tile, hence after all PV
warps, loaders among them, had their last look at the record; and QK had its own before it said the end of that piece to
PV. A piece without a Q item has two units at least (invariant.describe). So no barrier says that a record is empty, and
nobody can miss a phase of work_full.

Nobody waits for ever for a record: before anyone waits for that of piece i + 1 he is done with piece i, and the reader
needs for it no more than that piece i is done but for its last slots - 2 items. At the end of the work there is one
more record, without units.

Where rows are gathered (gather.py) every warp of PV is a loader. An item has come when each of their threads has
arrived, or its copies for it; a loader waits for the record of a piece before it fetches its Q, so that nothing is
loaded without work. It is ahead of the products by the items of the ring, as above. Codes that TMA brings (boxes.py)
come with `raw`, a barrier for each half of a slot, for which those wait who make them into numbers. Its phase is the
item's, so a Q ends one too. For 8-bit products QK takes units from there, and `full` says that V has been turned round
(code_pv.py); the copy that a warp turns into was the last but one unit's, for whose end, `empty`, it has waited before.
PV starts when P is there, so nobody says qk_done.

Where a warpgroup of its own fetches them (producer.py) it takes items in order, each when nobody needs what had its
slot before (of pairs see below). Rows that need no conversion arrive at `full`; codes at `fetched`, for which PV waits,
and PV at `full` with what it has made of them. Beside the product of item i it makes item i + 2. It knows by then that
QK has worked on item i, hence took item i - 1 if that was a Q; and Q's own phase of `fetched`, which the producer ends
itself, precedes its `full`. So PV waits for item i + 2 when the phase of that slot's item before, i - 1, is over. The
reader is the producer's first warp; the others have their last look at a record before their copies arrive for the
piece's last unit, or for the RoPE part of that.

In a pair of CTAs (made_codes.py) each makes half of a unit's rows for both. What it made of item i it copies to the
other CTA, when that has given the slot back, too; its `full` counts the bytes. They belong to i's phase there, since
both CTAs' `empty` of item i - slots came before, after which nobody waits for that item's `full`. The other CTA's
producer announces them before it fetches its own rows of i. Where they come sooner they are owed: that phase does not
end without the arrivals of PV, which follow. Rows of a unit may be fetched when this CTA alone has given the slot back
and the other one's QK has had what was there, so that no copy reads what they overwrite: that is `free`. A Q needs
`empty`, too, for which the producer waits behind `free`: PV had the item by then, and to make it waited for the phase
of `empty` before, so that one is not taken for the other. It waits so for the last unit of a piece, too, before its
last arrival for that: then it has for all items on which the next record depends.

At a piece's end the rows are staged in the slot of its last unit before that is given back. So the warps of PV say in
both CTAs that they have taken the sums, which they do when they have had that unit, whole; and PV waits for that of
both before it stages.

Codes of slices 2 i and 2 i + 1 come into one of them. So the two warps that make these wait for each other between
loads and stores (sync_two_warps); both make every unit, in order.

Where RoPE parts and P take turns in two slices, that of item i is fetched when item i - 2 has left, which the slot of
item i + 1 needs too: so behind the rows of that item. `rope` tells QK that it has come, in phase (i / 2) & 1; QK waits
for it behind the first products of S. Q comes whole, when both have left whose places it takes, and its phase of `rope`
the producer ends and waits for.

Where TMA brings all rows, items 0 and 1, the first Q and its first unit, are loaded by every loader before it knows of
a record, from what it reads of the schedule for itself: that hides the time that a record takes. Where there is no work
at all they are some tile's, and QK waits for them to come before the CTA ends.
"""

from enum import IntEnum

import cutlass
import cutlass.cute as cute
from cutlass import Int32, const_expr

from dsl_kernels.core.threads import opaque

from . import barrier_table
from .barrier_table import BARRIERS


class NamedBarrier(IntEnum):
    """Numbers of bar.sync; 0 belongs to sync_threads. Each is of one warpgroup, but for those of two warps."""

    QK = 1
    PV_LEFT = 2
    PV_RIGHT = 3
    PV_WARPS = 4  # the first of four: warps 2 i and 2 i + 1 of the left half, then of the right one


class Barriers:
    """Addresses of the barriers in shared memory, and the ways to arrive at them."""

    def __init__(self, slots, cluster, table=BARRIERS):
        self.slots, self.cluster, self.table = slots, cluster, table
        self.records = barrier_table.records(slots)
        names = [barrier.name for barrier in table]
        self.go_apart, self.frees = "qk_done" in names, "free" in names  # whether there are such
        self.joined = next(barrier for barrier in table if barrier.name == "empty").of == "slot"

    def lie_at(self, start):
        """`start`: where they lie; once in a kernel, before anything else."""
        self.start = start

    def first(self, name):
        return self.start + barrier_table.first(name, self.slots, self.table)

    def full(self, slot):
        return self.first("full") + slot

    def empty(self, slot, half):
        return self.first("empty") + (slot if self.joined else 2 * slot + half)

    def raw(self, slot, half):
        return self.first("raw") + 2 * slot + half

    @cute.jit
    def wait_for_room(self, item):
        """Until nobody needs the item any more that had the slot of `item` before."""
        slot, phase = self.slot_phase(item)
        if const_expr(self.frees):
            self.wait_until_free(slot, phase)
        self.wait_until_empty(slot, 0, phase)
        if const_expr(not self.joined):
            self.wait_until_empty(slot, 1, phase)

    @cute.jit
    def wait_until_empty(self, slot, half, phase):
        """The same of half of a slot. phase: of the item that comes there."""
        cute.arch.mbarrier_wait(self.empty(slot, half), phase ^ 1)

    @cute.jit
    def wait_until_free(self, slot, phase):
        """The same of this CTA's own rows in a pair."""
        cute.arch.mbarrier_wait(self.free(slot), phase ^ 1)

    def free(self, slot):
        return self.first("free") + slot

    def rope(self, item):
        """Of the RoPE part alone, and its phase."""
        return self.first("rope") + item % 2, (item // 2) & 1

    def fetched(self, slot):
        return self.first("fetched") + slot

    def p_full(self, slot):
        return self.first("p_full") + slot

    def go(self, slot):
        """Where PV hears that it may start."""
        return self.first("qk_done" if self.go_apart else "p_full") + slot

    def sum_empty(self):
        return self.first("sum_empty")

    def work_full(self, record):
        return self.first("work_full") + record

    def slot_phase(self, item):
        return item % self.slots, (item // self.slots) & 1

    @cute.jit
    def step(self, slot, phase):
        """Slot and phase of the item behind the one that has these."""
        ends = slot == self.slots - 1
        return Int32(0) if ends else slot + 1, phase ^ 1 if ends else phase

    def record_phase(self, piece):
        return piece % self.records, (piece // self.records) & 1

    @cute.jit
    def init(self):
        """By one warp."""
        with cute.arch.elect_one():
            for barrier in self.table:
                for i in cutlass.range_constexpr(barrier.number(self.slots)):
                    cute.arch.mbarrier_init(self.first(barrier.name) + i, barrier.count(self.cluster))

    @cute.jit
    def release(self, slot, half):
        """This thread is done with half of a slot: one arrival in every CTA of the cluster."""
        cute.arch.sync_warp()  # the lanes in one instruction
        if const_expr(self.frees):  # first: the other CTA may say the next that it has come when `empty` is over
            cute.arch.mbarrier_arrive(self.free(slot))
        self.arrive_in_cluster(self.empty(slot, half))

    @cute.jit
    def sync_half(self, half):
        """Waits for the other warps of the PV warpgroup of a half."""
        cute.arch.barrier(barrier_id=NamedBarrier.PV_LEFT + opaque(half), number_of_threads=128)

    @cute.jit
    def sync_two_warps(self, half, warp):
        """Waits for the warp of PV beside this one: 2 i and 2 i + 1 of a half wait for each other."""
        cute.arch.barrier(barrier_id=NamedBarrier.PV_WARPS + 2 * half + (warp >> 1), number_of_threads=64)

    @cute.jit
    def say_sums(self):
        """QK to PV: row sums of a piece are there."""
        self.arrive_quads(self.first("sums"))

    @cute.jit
    def hear_sums(self, piece):
        """PV: until those of a piece are there."""
        cute.arch.mbarrier_wait(self.first("sums"), piece & 1)

    @cute.jit
    def arrive(self, bar):
        """One arrival of this warp."""
        with cute.arch.elect_one():
            cute.arch.mbarrier_arrive(bar)

    @cute.jit
    def arrive_in_all(self, bar):
        """One arrival of this warp in every CTA of the cluster."""
        with cute.arch.elect_one():
            self.arrive_in_cluster(bar)

    @cute.jit
    def arrive_in_cluster(self, bar):
        """One arrival of this thread in every CTA of the cluster."""
        if const_expr(self.cluster > 1):
            for c in cutlass.range_constexpr(self.cluster):
                cute.arch.mbarrier_arrive(bar, c)
        else:
            cute.arch.mbarrier_arrive(bar)

    @cute.jit
    def arrive_quads(self, bar):
        """One arrival of every fourth lane: those that write the scales of their rows."""
        tid, _, _ = cute.arch.thread_idx()
        cute.arch.sync_warp()
        if (tid & 3) == 0:
            cute.arch.mbarrier_arrive(bar)

    @cute.jit
    def wait_for_work(self, piece):
        """Until the record of a piece is there; returns which one it is."""
        record, phase = self.record_phase(piece)
        cute.arch.mbarrier_wait(self.work_full(record), phase)
        return record
