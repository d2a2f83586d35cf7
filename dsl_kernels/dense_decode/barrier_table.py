"""The barriers of dense_decode, an mbarrier each: how many there are, who arrives how often, who waits. The kernel
initialises them from this table, config.py counts their bytes, and a test runs a model of them. Why the phases agree
stands in barriers.py. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

BYTES = 8  # of a barrier
QUADS = 32  # of the QK warpgroup
PV_THREADS = 256


def records(slots: int) -> int:
    """Work records: enough that all who use one have done so when the reader, which is at most `slots` items ahead of
    anyone, writes it again. A piece is two items at least.
    """
    return slots // 2 + 1


@dataclass(frozen=True)
class Barrier:
    name: str
    of: str  # "slot", "half" (of the columns of a slot), "turn" (of two), "record" or "CTA": of what there is one
    arrivals: int  # that end a phase, of each CTA that arrives
    arrive: str
    wait: str
    cluster: bool = False  # every CTA of the cluster arrives; else only the own

    def number(self, slots: int) -> int:
        return {"slot": slots, "turn": 2, "half": 2 * slots, "record": records(slots), "CTA": 1}[self.of]

    def count(self, cluster: int) -> int:
        """Arrivals that end a phase."""
        return self.arrivals * (cluster if self.cluster else 1)


BARRIERS = (
    # An item has come.
    Barrier("full", "slot", 2, arrive="both loaders, with their half's bytes", wait="QK; PV where it is a unit"),
    # Nobody needs an item any more. Every thread arrives, because racecheck does not see what a warp does before one
    # lane arrives for it.
    Barrier(
        "empty", "half", 128, cluster=True,
        arrive="of Q, QK; of a unit, the PV warpgroup of the half",
        wait="the left loader for its half, the right one for both; QK at the end of a piece for both",
    ),
    # P and scales of a unit are in shared memory; in the slot of a Q, 1 / row sum of the tile before, but of the first
    # Q and in batch-invariant calls, which tell that by `sums`.
    Barrier("p_full", "slot", QUADS, arrive="every fourth thread of QK", wait="PV; QK of a Q that says nothing"),
    # PV of a unit may start: S of the next one is nearly done, or that one is late. Of a Q it says nothing.
    Barrier("qk_done", "slot", 1, arrive="warp 0 of QK", wait="PV, where it is a unit; of a Q, warp 0 of QK"),
    # 1 / row sum has been read, and the log-sum-exps with it. Every thread arrives as above: in batch-invariant calls
    # nothing else parts its loads from what QK writes there next.
    Barrier("sum_empty", "CTA", PV_THREADS, arrive="every thread of PV", wait="QK"),
    # The record of a piece is in shared memory.
    Barrier("work_full", "record", 1, arrive="the reader, in every CTA", wait="QK, PV, loaders"),
)  # fmt: skip
FULL, EMPTY, P_FULL, QK_DONE, SUM_EMPTY, WORK_FULL = BARRIERS


# p_full where it tells PV, too, that it may start: there is no qk_done then.
P_FULL_AND_GO = replace(P_FULL, arrivals=QUADS + 1, arrive=f"{P_FULL.arrive}; its warp 0 once more, when PV may start")
# Row sums and log-sum-exps of a piece are there.
SUMS = Barrier("sums", "CTA", QUADS, arrive=P_FULL.arrive, wait="PV")
INVARIANT = (FULL, EMPTY, P_FULL_AND_GO, SUMS, SUM_EMPTY, WORK_FULL)  # of batch-invariant calls

# sum_empty where other barriers part these loads from what QK writes next; registers are scarce there.
BY_WARPS = replace(SUM_EMPTY, arrivals=8, arrive="the warps of PV")

# Codes that come by TMA are there; of a Q, which has none, it says nothing.
RAW = Barrier(
    "raw", "half", 1,
    arrive="the first PV warp of the half, with the bytes",
    wait="the PV warpgroup of the half, QK where it multiplies codes; of a Q, who arrives",
)  # fmt: skip


def gathering(boxed: bool = False, fp8_products: bool = False) -> tuple[Barrier, ...]:
    """The same where PV's warps are all loaders. boxed: of codes that come by TMA. fp8_products: whose PV starts when P
    is there.
    """
    arrive = "every thread of PV, of its copies or with what it has made of them"
    full, go = replace(FULL, arrivals=PV_THREADS, arrive=arrive), [] if fp8_products else [QK_DONE]
    return (full, EMPTY, P_FULL, *go, BY_WARPS, WORK_FULL, *([RAW] if boxed else []))


PRODUCERS = 128  # threads of the warpgroup that fetches rows
# Copies that arrive for a thread tell nothing that the thread wrote: those that write which rows are attended, one a
# warp (of the left half where PV's warps are loaders), say so for themselves.
WRITERS = 4


def producing(copies_arrive: bool, turns: bool = False, paired: bool = False) -> tuple[Barrier, ...]:
    """The same where a warpgroup of its own fetches rows. copies_arrive: they need no conversion; turns: RoPE parts
    take turns in two slices; paired: each of two CTAs makes half of a unit's rows for both.
    """
    by_copies = "every thread of the producer, of its copies"
    arrivals, by_all = PRODUCERS + WRITERS, f"{by_copies}; and the writers of which rows are attended"
    # Where RoPE parts take turns there is no room for a barrier of each half.
    makers = "; PV, before it copies what it made" if paired else ""
    empty = replace(EMPTY, wait=f"the producer and, at the end of a tile, QK, for all of it{makers}")
    if turns:
        empty = replace(empty, of="slot", arrivals=2 * EMPTY.arrivals, arrive="of Q, QK twice; of a unit, PV")
    record = replace(WORK_FULL, wait="QK, PV, the producer")
    rope = [Barrier("rope", "turn", PRODUCERS, arrive=by_copies, wait="QK; of a Q, the producer")] * turns
    if copies_arrive:
        full = replace(FULL, arrivals=arrivals, arrive=by_all)
        return (full, empty, P_FULL, QK_DONE, BY_WARPS, record, *rope)
    fetched = Barrier("fetched", "slot", arrivals, arrive=by_all, wait="PV; of a Q, the producer")
    by_pv, sum_empty, free = "every thread of PV, with numbers; of Q, each of the producer twice", BY_WARPS, []
    if paired:
        by_pv += "; with the bytes of what the other CTA made of a unit"
        # Then the other CTA has all that was copied to it, too.
        arrive = "the warps of PV of both CTAs, which have had all units"
        sum_empty = replace(sum_empty, cluster=True, arrive=arrive, wait="QK; PV")
        # This CTA is done with an item, and the other one has what was copied of it: rows may be fetched over those
        # that were made here.
        arrive = "those who arrive at empty, in their own CTA; warp 0 of QK of the other one, when the item has come"
        free = [Barrier("free", "slot", 2 * EMPTY.arrivals + 1, arrive=arrive, wait="the producer")]
    full = replace(FULL, arrivals=PV_THREADS, arrive=by_pv)
    return (full, empty, P_FULL_AND_GO, sum_empty, record, *rope, *free, fetched)


def first(name: str, slots: int, table: tuple[Barrier, ...]) -> int:
    """Where the barriers of a name begin among all, which lie one after another."""
    names = [barrier.name for barrier in table]
    return sum(barrier.number(slots) for barrier in table[: names.index(name)])


def total(slots: int, table: tuple[Barrier, ...]) -> int:
    return sum(barrier.number(slots) for barrier in table)
