"""Which rows of which cache a query token selects, and where they lie.

Everything read from device memory is clamped or checked: lengths, and indices, of which one outside the cache is -1.
"""

import cutlass.cute as cute
from cutlass import Int16, Int32, Int64, max, min

from dsl_kernels.core import attended, schedule
from dsl_kernels.core.schedule_params import UNIT
from dsl_kernels.dense_decode import work
from dsl_kernels.dense_decode.gather_reader import GatherReader

# A record says, in the place of dense_decode's SEEN and LENGTH, how many indices count of the main and of the extra
# cache.
MAIN, EXTRA = work.SEEN, work.LENGTH


def valid_words(kernel):
    """A bit for each row of the unit in a slot, in two words: whether it is attended."""
    return cute.make_tensor(kernel.smem.told, cute.make_layout((2, kernel.slots)))


def valid_rows(kernel):
    """The same bits as 16 rows each."""
    where = cute.recast_ptr(kernel.smem.told, dtype=Int16)
    return cute.make_tensor(where, cute.make_layout((4, kernel.slots)))


class SelectionReader(GatherReader):
    NOT_AHEAD = (*GatherReader.NOT_AHEAD, "extra_capacity", "stores_all")

    @cute.jit
    def planned(self, part, tile):
        slot, begin, end = super().planned(part, tile)
        return self.a.slots_per_part * part if self.a.stores_all != 0 else slot, begin, end

    @cute.jit
    def look_up(self, request):
        """In lane 0 how many indices count of the main cache, in lane 1 of the extra one, as they are in memory."""
        a, items, lane = self.a, Int32(0), self.kernel.lane(request)
        has_lengths, has_extra_lengths = schedule.given(a.lengths), schedule.given(a.extra_lengths)
        if lane == 0:
            items = a.capacity
            if has_lengths:
                items = schedule.element(a.lengths, request)
        elif lane == 1:
            items = a.extra_capacity
            if has_extra_lengths:
                items = schedule.element(a.extra_lengths, request)
        query, count = schedule.query_range(a, request)
        return items, query, count

    @cute.jit
    def measured(self, _request, items, count, tile_of_head):
        """The tile's query token may be none of the request's any more, where offsets change: then nothing counts, and
        no index is read.
        """
        main = min(max(cute.arch.shuffle_sync(items, 0), 0), self.a.capacity)
        extra = min(max(cute.arch.shuffle_sync(items, 1), 0), self.a.extra_capacity)
        if schedule.first_token(self.a, tile_of_head * self.kernel.blocks) >= count:
            main, extra = Int32(0), Int32(0)
        return attended.units_of(main) + attended.units_of(extra), main, extra


@cute.jit
def is_extra(kernel, record, unit):
    """Whether a unit's rows are of the extra cache."""
    return unit >= attended.units_of(kernel.smem.sWork[MAIN, record])


@cute.jit
def selected(kernel, record, unit, row):
    """What a row of a unit selects, as it is in memory; -1 where there is nothing, or what no int32 holds. An int32 is
    not waited for here.
    """
    a, sWork = kernel.a, kernel.smem.sWork
    request, _, tile = schedule.locate_tile(a, sWork[work.TILE, record])
    token = sWork[work.QUERY, record] + schedule.first_token(a, tile * kernel.blocks)
    place, count = unit * UNIT + row, sWork[MAIN, record]
    base, wide = schedule.address(a.indices), a.wide_indices
    where = Int64(request) * a.indices_stride_b + Int64(token) * a.indices_stride_s
    if is_extra(kernel, record, unit):
        place, count = place - attended.units_of(count) * UNIT, sWork[EXTRA, record]
        base, wide = schedule.address(a.extra_indices), a.extra_wide_indices
        where = Int64(request) * a.extra_indices_stride_b + Int64(token) * a.extra_indices_stride_s
    index = Int32(-1)
    if place < count:
        where += place
        if wide != 0:
            index, upper = _word(base + 8 * where), _word(base + 8 * where + 4)
            index = index if upper == 0 else Int32(-1)
        else:
            index = _word(base + 4 * where)
    return index


def _word(address):
    pointer = cute.make_ptr(Int32, address, cute.AddressSpace.gmem, assumed_align=4)
    return cute.make_tensor(pointer, cute.make_layout(1))[0]


@cute.jit
def locate(kernel, record, unit, index):
    """(Whether an index is one of the cache that a unit is of, where that row lies, and its scales). A cache has fewer
    than 2^31 slots.
    """
    a, extra = kernel.a, is_extra(kernel, record, unit)
    slots = a.extra_slots if extra else a.slots
    valid = (index >= 0) and (index < Int32(slots))
    index = index if valid else Int32(0)  # what is not attended is not read
    base = schedule.address(a.extra_cache) if extra else schedule.address(a.cache)
    block_step = a.extra_block_step if extra else a.block_step
    row_step = a.extra_row_step if extra else a.row_step
    block = schedule.divide(index, a.extra_by_page if extra else a.by_page)
    row = index - block * (a.extra_page_size if extra else a.page_size)
    page = base + Int64(block) * block_step
    scales = page + (a.extra_scales_at if extra else a.scales_at)
    scales += Int64(row) * (a.extra_scales_step if extra else a.scales_step)
    return valid, page + Int64(row) * row_step, scales


class Selection:
    """The rows that a query token selects, as a loader asks for them."""

    TELLS = True

    def __init__(self, kernel):
        self.kernel = kernel

    def read(self, record, unit, row):
        return selected(self.kernel, record, unit, row)

    def locate(self, record, unit, _row, index):
        return locate(self.kernel, record, unit, index)

    def tell(self, warp, slot, valid):
        valid_rows(self.kernel)[warp % 4, slot] = Int16(valid)
