"""Device view of the schedule: parts, tiles and pieces, as libflashmla's fm_tiling and fm_cut define them.

`a` is the kernel's parameter namespace. Everything read from device memory is clamped: cuts to the tile range, query
ranges to the tensor, so that no value can lead outside the caller's tensors.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64, max, min


def element(pointer, index):
    return cute.make_tensor(pointer, cute.make_layout(2**30))[index]


def address(pointer):
    """As a number; a method call on `a` would count as a write to it in a run-time region."""
    return pointer.toint()


def given(pointer):
    """Whether the caller gave it."""
    return pointer.toint() != 0


@cute.jit
def divide(n, divisor):
    """n / d for 0 <= n < 2^31, of a divisor {ceil(2^s / d), s = 31 + ceil(log2 d)}: a few instructions. A division is
    dozens, which for the first tile come from memory.
    """
    return Int32((Int64(n) * (divisor & 0xFFFFFFFF)) >> (divisor >> 32))


def by_request(a):
    """Whether queries are of variable length and so tiles numbered request by request."""
    return a.cu_seqlens_q.toint() != 0


# ---- parts and pieces ------------------------------------------------------------------------------------------------


def cut(a, part):
    """(Tile, unit) of the cut where a part begins; never negative. What follows from shapes is not read."""
    return tuple(_cuts(a, part, 1)[:2])


def edges(a, part):
    """The cuts where a part begins and where it ends: (tile, unit, tile, unit)."""
    return tuple(_cuts(a, part, 2))


def _cuts(a, part, count):
    never_known = isinstance(a.tile_cost, int)  # CUTS_ARE_READ
    return _read_cuts(a, part, count) if never_known else _read_or_known_cuts(a, part, count)


def _read_cuts(a, part, count):
    return [max(element(a.cuts, 2 * part + i), 0) for i in range(2 * count)]  # all loaded at once


@cute.jit
def _read_or_known_cuts(a, part, count: cutlass.Constexpr):
    found = cute.make_rmem_tensor((2 * count,), Int32)
    if a.tile_cost == 0:
        words = _read_cuts(a, part, count)
        for i in cutlass.range_constexpr(2 * count):
            found[i] = words[i]
    else:
        for i in cutlass.range_constexpr(count):
            found[2 * i], found[2 * i + 1] = _known_cut(a, part + i)
    return [found[i] for i in range(2 * count)]


def _known_cut(a, part):
    """fm_cut_known of the C core."""
    group = divide(part, a.by_group_parts)
    step = (part - group * a.group_parts) * a.part_cost
    cost = min(group * a.group_cost + min(a.first_cost + step, a.group_cost), a.total_cost)
    tile = divide(cost, a.by_tile_cost)
    return tile, max(cost - tile * a.tile_cost - a.begin_cost, 0)


@cute.jit
def part_tiles(a, part):
    """First tile and end tile (exclusive) of a part."""
    first, first_unit, last, last_unit = edges(a, part)
    begin = first_unit if first == last else Int32(0)
    end = last + 1 if last_unit > begin else last
    return first, min(end, a.num_tiles)


@cute.jit
def seek(a, part, tile, step, cluster, lane: cutlass.Constexpr):
    """The first piece at or after a tile of a part, going on with part + step: (part, tile); a part >= num_parts is
    the end of the work. The lanes of a warp look at 32 parts at once: forced or batch-invariant schedules have many
    that are empty. lane(x): number of the lane, asked where x is known.
    """
    first, end = part_tiles(a, min(part, a.num_parts - 1))
    tile = next_live(a, max(tile, first), end, cluster)
    while (part < a.num_parts) and (tile >= end):
        candidate = part + (lane(part) + 1) * step
        part += step
        if part < a.num_parts:  # at the end of the work nothing is loaded
            first, end = part_tiles(a, min(candidate, a.num_parts - 1))
            votes = cute.arch.vote_ballot_sync((candidate >= a.num_parts) or (first < end))
            part += min(cute.arch.popc(~votes & (votes - 1)), 31) * step  # the lanes below the first that votes
            first, end = part_tiles(a, min(part, a.num_parts - 1))
            tile = next_live(a, first, end if part < a.num_parts else 0, cluster)
    return part, tile


@cute.jit
def next_live(a, tile, end, cluster):
    """The first live tile from `tile` on, or some tile behind `end` when there is none before it."""
    if by_request(a):
        dead = tile < end
        while dead:
            request, _, tile_of_head = locate_tile(a, tile)
            _, count = query_range(a, request)
            dead = first_token(a, tile_of_head * cluster) >= count
            if dead:  # with them all the tiles behind: of the KV head, or of a request without tokens
                next_head = tile - tile_of_head + a.tiles_per_head
                tile = next_head if tile_of_head > 0 else (request + 1) * a.tiles_per_request
                dead = tile < end
    return tile


@cute.jit
def first_unit(a, part, tile):
    """Where the piece of a tile in a part begins, by the schedule."""
    first, unit = cut(a, part)
    return unit if tile == first else Int32(0)


@cute.jit
def piece_units(a, part, tile, units):
    """Units [begin, end) of the piece of a tile in a part, of a sequence that has `units` units now."""
    last, unit = cut(a, part + 1)
    end = min(unit, units) if tile == last else units
    return min(first_unit(a, part, tile), end), end


@cute.jit
def partial_slot(a, part, tile):
    """Slot of the partial result, or -1 when the piece is a whole tile and goes straight to the output.

    Without room for partials there are only whole tiles, whatever the cuts say.
    """
    first, unit, last, _ = edges(a, part)
    begins, ends = (tile != first) or (unit == 0), tile != last
    slot = a.slots_per_part * part + (a.slots_per_part - 1 if begins else 0)
    return Int32(-1) if (begins and ends) or (a.partial.toint() == 0) else slot


# ---- tiles and rows --------------------------------------------------------------------------------------------------


@cute.jit
def locate_tile(a, tile):
    """(request, KV head, number of the tile within them)."""
    varlen = by_request(a)
    major = divide(tile, a.by_tile_major)
    minor = tile - major * (a.tiles_per_request if varlen else a.batch)
    request, column = (major if varlen else minor), (minor if varlen else major)
    head = divide(column, a.by_tiles_per_head)
    return request, head, column - head * a.tiles_per_head


@cute.jit
def query_range(a, request):
    """First query token of a request in q, out and lse, and how many it has."""
    begin, count = Int32(0), a.s_q
    if by_request(a):
        begin = min(max(element(a.cu_seqlens_q, request), 0), a.total_q)
        end = min(max(element(a.cu_seqlens_q, request + 1), begin), a.total_q)
        count = min(end - begin, a.s_q)
    return begin, count


def first_token(a, block):
    """First query token of a row block."""
    return divide(block, a.by_head_chunks) * a.block_tokens


@cute.jit
def locate_row(a, block, row, count):
    """Row of a block of a request with `count` query tokens -> (valid, query token, head within the group)."""
    token_in_block = divide(row, a.by_block_heads)
    group_of_tokens = divide(block, a.by_head_chunks)
    token = group_of_tokens * a.block_tokens + token_in_block
    head = (block - group_of_tokens * a.head_chunks) * a.block_heads + row - token_in_block * a.block_heads
    return (token_in_block < a.block_tokens) and (token < count) and (head < a.group), token, head


@cute.jit
def out_offset(a, request, token, head):
    return Int64(request) * a.out_stride_b + Int64(token) * a.out_stride_s + Int64(head) * a.out_stride_h


@cute.jit
def lse_offset(a, request, token, head):
    return Int64(request) * a.lse_stride_b + Int64(token) * a.lse_stride_s + Int64(head) * a.lse_stride_h
