"""Work records: what the roles know of a piece. One warp, the reader, reads the schedule and the lengths, clamps them
and writes a record into the shared memory of every CTA of the cluster; all roles follow that. So schedule and lengths
that are overwritten in flight give wrong rows, but never roles that wait for each other's items for ever.

Records take turns as slots do; when one is written again, nobody reads it any more (barriers.py).
"""

import cutlass
import cutlass.cute as cute
from cutlass import Int32, const_expr, max, min

from dsl_kernels.core import attended, schedule
from dsl_kernels.core.schedule_params import LOG_UNIT, UNIT

from . import invariant
from .config import RECORD

# A piece's tile; where its rows go: a partial slot, or -1 - part for a whole tile, which goes to the output; its units,
# at least one, or 0: the end of the work; the first of them; how many tokens, over all shards, the first query token of
# the CTA's row block attends; how many query tokens the block has; the request's first query token in q, out and lse;
# tokens of the request in this shard. In batch-invariant calls part and marks lie above the slot, and marks above the
# tokens (invariant.py).
TILE, SLOT, UNITS, FIRST_UNIT, SEEN, TOKENS, QUERY, LENGTH = range(RECORD)

# The units at the end of a tile that some row of it does not attend whole: limits of its rows are at most 127 tokens
# apart, those of 64 query tokens in each CTA of a cluster.
HIDDEN_UNITS = 3


@cute.jit
def first_remaining(kernel, record):
    """Tokens from the piece's begin on that the block's first query token attends: the least of its rows."""
    return _limit(kernel, record, Int32(0)) - kernel.smem.sWork[FIRST_UNIT, record] * UNIT


@cute.jit
def last_remaining(kernel, record):
    """The same of the block's last query token: the most of its rows."""
    return last_limit(kernel, record) - kernel.smem.sWork[FIRST_UNIT, record] * UNIT


@cute.jit
def last_limit(kernel, record):
    """Tokens in this shard that the block's last query token attends."""
    return _limit(kernel, record, max(tokens_of(kernel, record) - 1, 0))


@cute.jit
def _limit(kernel, record, token):
    """Tokens in this shard that a query token of the block attends."""
    a, sWork = kernel.a, kernel.smem.sWork
    limit = sWork[SEEN, record] + a.causal * token
    if a.cp_period != 0:
        limit = attended.in_shard(a, sWork[LENGTH, record], limit)
    return limit


def tokens_of(kernel, record):
    """Query tokens of the block."""
    tokens = kernel.smem.sWork[TOKENS, record]
    return tokens & invariant.TOKENS_MASK if kernel.invariant else tokens


class Reader:
    """Writes the records. `kernel`: the DenseDecode. Of batch-invariant calls: invariant_loader.py."""

    FIRST = 0  # a piece's number, where there are none; where there are, that of a tile's first piece in a part

    def __init__(self, kernel):
        self.kernel, self.a, self.bars, self.smem = kernel, kernel.a, kernel.bars, kernel.smem

    @cute.jit
    def look_up(self, request):
        """(Length of a request as it is in memory, first query token, how many). The length is lane 0's alone: one of
        all lanes would be waited for here, to make it uniform, and is not needed yet.
        """
        length = Int32(0)
        if self.kernel.lane(request) == 0:
            length = schedule.element(self.a.lengths, request)
        query, count = schedule.query_range(self.a, request)
        return length, query, count

    @cute.jit
    def publish_first(self):
        """The first record, by a warp that loads nothing: the loaders can do without it for two items."""
        kernel, a = self.kernel, self.a
        part, tile = schedule.seek(a, kernel.first_part, Int32(0), kernel.step, kernel.blocks, kernel.lane_apart)
        tile = min(tile, a.num_tiles - 1)
        request, _, _ = schedule.locate_tile(a, tile)
        self.publish(Int32(0), part, tile, Int32(self.FIRST), self.look_up(request))

    @cute.jit
    def next_piece(self, record, number):
        """(part, tile, number) of the piece after that of a record."""
        kernel, a, sWork = self.kernel, self.a, self.smem.sWork
        slot = sWork[SLOT, record]
        part, tile = slot >> (a.slots_per_part - 1) if slot >= 0 else -1 - slot, sWork[TILE, record]
        part, tile = schedule.seek(a, part, tile + 1, kernel.step, kernel.blocks, kernel.lane_apart)
        return part, tile, number

    @cute.jit
    def planned(self, part, tile):
        """What the schedule says of a piece: where its rows go, its units, of which the last may not be known yet."""
        slot = schedule.partial_slot(self.a, part, tile)
        slot = slot if slot >= 0 else -1 - part
        begin, end = schedule.piece_units(self.a, part, tile, Int32(2**31 - 1))
        return slot, begin, end

    @cute.jit
    def settled(self, planned: tuple, _part, _number, units):
        """The same of a tile that has `units` units now, and marks."""
        slot, begin, end = planned
        end = min(end, units)
        return slot, min(begin, end), end, Int32(0)

    @cute.jit
    def measured(self, request, length, count, tile_of_head):
        """Of a request whose length look_up found: units that any row of the tile attends; tokens that the last query
        token attends, over all shards; the length clamped.
        """
        a = self.a
        length = attended.clamped(a, cute.arch.shuffle_sync(length, 0))
        units = attended.tile_units(a, request, length, count, tile_of_head, self.kernel.blocks)
        seen = length
        if a.cp_period != 0:
            seen = attended.global_length(a, request)
        return units, seen, length

    @cute.jit
    def first_unit(self, length, count):
        """Of a request: that from which the schedule counts."""
        return attended.first_item(self.a, length, count) >> LOG_UNIT

    @cute.jit
    def first_unit_now(self, tile):
        """The same of a tile's request, whose length is read on the spot; without windows nothing is."""
        first = Int32(0)
        if self.a.window > 0:
            request, _, _ = schedule.locate_tile(self.a, tile)
            _, count = schedule.query_range(self.a, request)
            first = self.first_unit(attended.length_of(self.a, request), count)
        return first

    @cute.jit
    def publish(self, piece, part, tile, number, found: tuple):
        """The record of a piece, of whose request look_up has `found` this; with part >= num_parts, that none is left.
        `number`: of the piece in a batch-invariant tile. Returns the units [begin, end). What does not follow from the
        length comes first: that may be on its way still.
        """
        kernel, a, there = self.kernel, self.a, part < self.a.num_parts
        ranks = range(kernel.cluster) if kernel.cluster > 1 else (kernel.rank,)
        length, query, count = found
        request, _, tile_of_head = schedule.locate_tile(a, tile)
        part = min(part, a.num_parts - 1)
        planned = self.planned(part, tile)
        firsts = [schedule.first_token(a, tile_of_head * kernel.blocks + rank) for rank in ranks]
        tokens = [max(min(a.block_tokens, count - first), 0) for first in firsts]
        hidden = [a.causal * (count - 1 - min(first, count - 1)) for first in firsts]
        units, seen, length = self.measured(request, length, count, tile_of_head)
        first = self.first_unit(length, count)
        slot, begin, end, marks = self.settled(planned, part, number, units - first)
        begin, end = begin + first, end + first
        end = max(end, begin + 1)  # a unit that no row attends, where there is nothing to do
        if not there:
            begin, end, marks = Int32(0), Int32(0), Int32(0)
        for rank in cutlass.range_constexpr(kernel.cluster):
            words = (tile, slot, end - begin, begin, seen - hidden[rank], tokens[rank] | marks, query, length)
            self.write(rank, piece, words)
        return begin, end

    @cute.jit
    def write(self, rank: cutlass.Constexpr, piece, words: tuple):
        """The record into the shared memory of a CTA, and an arrival there, by one lane."""
        sWork = self.smem.sWork
        record, _ = self.bars.record_phase(piece)
        bar = self.bars.work_full(record)
        with cute.arch.elect_one():
            if const_expr(self.kernel.cluster > 1):  # the barrier counts the bytes: no fence over the cluster
                for i in cutlass.range_constexpr(0, RECORD, 4):
                    where = sWork.iterator + cute.assume(record * RECORD + i, divby=4)
                    cute.arch.store_async_dsmem(where, words[i : i + 4], bar, rank)
                cute.arch.mbarrier_arrive_and_expect_tx(bar, 4 * RECORD, rank)
            else:
                for i in cutlass.range_constexpr(RECORD):
                    sWork[i, record] = words[i]
                cute.arch.mbarrier_arrive(bar)
