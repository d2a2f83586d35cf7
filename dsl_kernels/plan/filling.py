"""Cuts between items of batch-invariant work, for the costliest part to cost about the least, as finely as there are
slots for the items, and those slots: see fm_cut of the C core.

Each of BUDGETS threads fills part after part with as many items as its budget allows, and every NOTED parts notes where
it is. What the first budget that suffices gives, threads then write, from a note on each.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32, Int64, min

from dsl_kernels.core import pieces, schedule
from dsl_kernels.core.schedule_params import BUDGETS

from .config import NOTED

AT_ONCE = 4  # requests whose begins are loaded together


class Filling:
    def __init__(self, plan, notes: cute.Tensor, stored: cute.Tensor, first_slot: cute.Tensor):
        """notes, stored: shared memory for numbers of budgets, and of threads; first_slot: of the schedule."""
        self.plan, self.a, self.notes, self.stored, self.first_slot = plan, plan.a, notes, stored, first_slot

    @cute.jit
    def cut_between_items(self, tid, cost, costliest):
        """Cuts where a piece, a node or a tile begins, whichever is the first whose partial slots are not too many, and
        the slots. `cost`: of a band; costliest: of the tiles.
        """
        a, first_slot, stored, threads = self.a, self.first_slot, self.stored, self.plan.threads
        carries = Int64(2 * a.num_parts)
        run = (a.num_parts + (threads - 1)) // threads
        begin = min(tid * run, a.num_parts)
        end = min(begin + run, a.num_parts)
        level = Int32(0)
        while level < pieces.LEVELS:
            shift = pieces.item_shift(level)
            self.fill_evenly(tid, threads, cost, costliest, shift)
            cute.arch.sync_threads()
            own = Int64(0)
            for part in cutlass.range(begin, end, unroll=1):
                own += self.stored_items(part, shift)
            used = carries + self.plan.block.scan_add(stored, tid, own)
            running = carries + stored[tid] - own
            if (used <= a.slots) or (level == pieces.LEVELS - 1):
                for part in cutlass.range(begin, end, unroll=1):
                    first_slot[part] = Int32(running)
                    running += self.stored_items(part, shift)
                if tid == 0:
                    first_slot[a.num_parts] = Int32(used)
                    first_slot[a.num_parts + 1] = level
                level = Int32(pieces.LEVELS)
            else:
                level += 1
            cute.arch.sync_threads()

    @cute.jit
    def fill_evenly(self, tid, threads: cutlass.Constexpr, cost, costliest, shift):
        """shift: log2 of the pieces of an item."""
        a, parts = self.a, self.a.num_parts // self.a.bands
        most = min(costliest, Int64(a.start_overhead) + (Int64(2 * a.piece_units + a.piece_overhead) << shift))
        least, step = (cost + (parts - 1)) // Int64(parts), most // (BUDGETS - 1) + 1
        left, i = Int64(0), tid  # budgets behind the first that suffices; the last one always does
        while i < BUDGETS:
            if self.suffices(i, least + i * step, cost, shift):
                left, i = Int64(BUDGETS - 1 - i), Int32(BUDGETS)
            i += threads
        i = BUDGETS - 1 - Int32(self.plan.block.reduce_max(tid, left))
        for note in cutlass.range(tid, (parts + (NOTED - 1)) // NOTED, threads, unroll=1):
            self.write_parts(note * NOTED, self.notes[note * BUDGETS + i], least + i * step, cost, shift)
        for part in cutlass.range(a.bands * parts + tid, a.num_parts, threads, unroll=1):
            self.plan.write_cut(part, a.num_tiles, Int32(0))

    @cute.jit
    def stored_items(self, part, shift):
        """Partial slots of a part besides its carries: what it stores of the cut tiles that it begins and ends in."""
        a, cuts = self.a, self.plan.cuts
        first, unit, last, last_unit = (cuts[2 * part + i] for i in range(4))
        end, items = last_unit // a.piece_units, Int32(0)
        if unit > 0:
            of_first = end
            if first != last:
                request, _, _ = schedule.locate_tile(a, first)
                of_first = self.plan.quanta(request)
            items = pieces.items_between(unit // a.piece_units, of_first, shift)
        if (last_unit > 0) and ((first != last) or (unit == 0)):
            items += pieces.items_between(Int32(0), end, shift)
        return Int64(items)

    @cute.jit
    def suffices(self, i, budget, cost, shift):
        """Whether the parts of a band do all its work with the i-th budget."""
        notes, parts = self.notes, self.a.num_parts // self.a.bands
        where, part, at = Int64(0), Int32(0), self.begin_search()
        while part < parts:
            if part % NOTED == 0:
                notes[part // NOTED * BUDGETS + i] = where
            if where < cost:
                end, _, _, at = self.next_cut(where + budget, cost, shift, at)
                if end <= where:  # an item costs more
                    part = parts
                where = end
            part += 1
        return (part == parts) and (where >= cost)

    @cute.jit
    def write_parts(self, part, where, budget, cost, shift):
        """NOTED parts of each band, from one on that begins at `where`."""
        a, at = self.a, self.begin_search()
        parts, tiles = a.num_parts // a.bands, a.num_tiles // a.bands
        end = min(part + NOTED, parts)
        # the item that begins at a position is the furthest that does not begin behind it
        _, tile, unit, at = self.next_cut(where, cost, shift, at)
        while part < end:
            for band in cutlass.range(a.bands, unroll=1):
                self.plan.write_cut(band * parts + part, band * tiles + tile, unit)
            if where < cost:
                where, tile, unit, at = self.next_cut(where + budget, cost, shift, at)
            part += 1

    @cute.jit
    def begin_search(self):
        """Where a search begins for positions that only grow: the request, and when it begins; its column, and when."""
        return Int32(0), Int64(0), Int32(0), Int64(0)

    @cute.jit
    def next_cut(self, limit, cost, shift, at: tuple):
        """The furthest item that begins at `limit` or before, or the end of a band: where that is, (tile, unit), and
        where the search goes on.
        """
        a = self.a
        request, begin, column, base = at
        end, tile, unit = cost, a.num_tiles // a.bands, Int32(0)
        if limit < cost:
            if limit - base >= self.plan.column:
                column = Int32(limit // self.plan.column)
                request, begin, base = Int32(0), Int64(0), column * self.plan.column
            request, begin = self.last_before(request, begin, limit - base)
            tile, offset = self.plan.live_tile(request, column, limit - base - begin)
            end = limit - offset
            if offset > a.start_overhead:
                number = pieces.pieces_for(a, Int32(offset) - a.start_overhead) >> shift << shift
                if number > 0:
                    end += a.start_overhead + pieces.cost_before_piece(a, number)
                    unit = pieces.piece_begin(number) * a.piece_units
        return end, tile, unit, (request, begin, column, base)

    @cute.jit
    def last_before(self, request, begin, rest):
        """The last request of a column, from one on, that begins at `rest` or before; and where."""
        batch, before = self.a.batch, self.plan.before
        first, passed = request, Boolean(True)
        for i in cutlass.range_constexpr(AT_ONCE):
            following = first + (i + 1)
            its_begin = before[min(following, batch)]
            passed = passed and (following < batch) and (its_begin <= rest)
            request = following if passed else request
            begin = its_begin if passed else begin
        if passed:
            request = self.plan.last_request(request, rest)
            begin = before[request]
        return request, begin
