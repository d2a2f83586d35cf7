"""Device view of the schedule: parts, tiles, pieces and row limits, as defined in libflashmla/src/internal.h.

`a` is the kernel's parameter namespace. Everything read from device memory is clamped: cuts to the tile range, lengths
to the capacity of the block table, query ranges to the tensor, so that no value can lead outside the caller's tensors.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64, Uint32, max, min

LOG_UNIT = 6
UNIT = 1 << LOG_UNIT  # KV tokens that are worked on as one


@cute.jit
def opaque(x):
    """The same value, but work done on it before cannot be shared: what hangs on it is not kept in registers."""
    return cute.arch.inline_ptx("mov.b32 {$w0}, {$r0};", write_only_types=[Int32], read_only_args=[Int32(x)])


def _element(pointer, index):
    return cute.make_tensor(pointer, cute.make_layout(2**30))[index]


def address(pointer):
    """As a number; a method call on `a` would count as a write to it in a run-time region."""
    return pointer.toint()


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


def cut(a, w, field):
    """Field 0 (tile) or 1 (unit) of cut w; never negative."""
    return max(_element(a.cuts, 2 * w + field), 0)


@cute.jit
def part_tiles(a, w):
    """First tile and end tile (exclusive) of part w."""
    first, last = cut(a, w, 0), cut(a, w + 1, 0)
    first_unit, last_unit = cut(a, w, 1), cut(a, w + 1, 1)  # loaded with the others, wanted or not
    begin = first_unit if first == last else Int32(0)
    end = last + 1 if last_unit > begin else last
    return first, min(end, a.num_tiles)


@cute.jit
def seek(a, w, t, step, cluster):
    """The first piece at or after tile t of part w, going on with part w + step: (part, tile); a part >= num_parts is
    the end of the work. The lanes of a warp look at 32 parts at once: forced or batch-invariant schedules have many
    that are empty.
    """
    first, end = part_tiles(a, min(w, a.num_parts - 1))
    t = next_live(a, max(t, first), end, cluster)
    while (w < a.num_parts) and (t >= end):
        v = w + (opaque(cute.arch.lane_idx()) + 1) * step
        w += step
        if w < a.num_parts:  # at the end of the work nothing is loaded
            first, end = part_tiles(a, min(v, a.num_parts - 1))
            votes = cute.arch.vote_ballot_sync((v >= a.num_parts) or (first < end))
            w += min(cute.arch.popc(~votes & (votes - 1)), 31) * step  # the lanes below the first that votes
            first, end = part_tiles(a, min(w, a.num_parts - 1))
            t = next_live(a, first, end if w < a.num_parts else 0, cluster)
    return w, t


@cute.jit
def next_live(a, t, end, cluster):
    """The first live tile from t on, or some tile behind `end` when there is none before it."""
    if by_request(a):
        dead = t < end
        while dead:
            b, _, k = tile_place(a, t)
            _, count = query_range(a, b)
            dead = first_token(a, k * cluster) >= count
            if dead:  # with them all the tiles behind: of the KV head, or of a request without tokens
                t = t - k + a.tiles_per_head if k > 0 else (b + 1) * a.tiles_per_request
                dead = t < end
    return t


@cute.jit
def first_unit(a, w, t):
    """Where the piece of tile t in part w begins, by the schedule."""
    tile, unit = cut(a, w, 0), cut(a, w, 1)  # both at once, wanted or not
    return unit if t == tile else Int32(0)


@cute.jit
def piece_units(a, w, t, units):
    """Units [lo, hi) of the piece of tile t in part w, of a sequence that has `units` units now."""
    tile, unit = cut(a, w + 1, 0), cut(a, w + 1, 1)
    hi = min(unit, units) if t == tile else units
    return min(first_unit(a, w, t), hi), hi


@cute.jit
def open_piece(a, w, t, cluster, rank, limit: cutlass.Constexpr):
    """The piece of tile t in part w: (tokens from its begin on that a row of block `rank` of the tile attends, units).
    `limit` says which row: first_limit or last_limit.
    """
    b, _, k = tile_place(a, t)
    _, count = query_range(a, b)
    length = length_of(a, b)
    units = tile_units(a, b, length, count, k, cluster)
    lo, hi = piece_units(a, w, t, units)
    return limit(a, b, length, count, k * cluster + rank) - lo * UNIT, hi - lo


@cute.jit
def partial_slot(a, w, t):
    """Slot of the partial result, or -1 when the piece is a whole tile and goes straight to the output.

    Without room for partials there are only whole tiles, whatever the cuts say.
    """
    tile, unit, last = cut(a, w, 0), cut(a, w, 1), cut(a, w + 1, 0)
    begins, ends = (t != tile) or (unit == 0), t != last
    slot = a.slots_per_part * w + (a.slots_per_part - 1 if begins else 0)
    return Int32(-1) if (begins and ends) or (a.partial.toint() == 0) else slot


# ---- tiles and rows --------------------------------------------------------------------------------------------------


@cute.jit
def tile_place(a, t):
    """(request, KV head, tile within them)."""
    varlen = by_request(a)
    major = divide(t, a.by_tile_major)
    minor = t - major * (a.tiles_per_request if varlen else a.batch)
    b, column = (major if varlen else minor), (minor if varlen else major)
    head = divide(column, a.by_tiles_per_head)
    return b, head, column - head * a.tiles_per_head


@cute.jit
def query_range(a, b):
    """First query token of request b in q, out and lse, and how many it has."""
    begin, count = Int32(0), a.s_q
    if by_request(a):
        begin = min(max(_element(a.cu_seqlens_q, b), 0), a.total_q)
        end = min(max(_element(a.cu_seqlens_q, b + 1), begin), a.total_q)
        count = min(end - begin, a.s_q)
    return begin, count


def first_token(a, block):
    """First query token of a row block."""
    return divide(block, a.by_head_chunks) * a.block_tokens


@cute.jit
def row_place(a, block, row, count):
    """Row of a block of a request with `count` query tokens -> (valid, query token, head within the group)."""
    token_in_block = divide(row, a.by_block_heads)
    group_of_tokens = divide(block, a.by_head_chunks)
    token = group_of_tokens * a.block_tokens + token_in_block
    head = (block - group_of_tokens * a.head_chunks) * a.block_heads + row - token_in_block * a.block_heads
    return (token_in_block < a.block_tokens) and (token < count) and (head < a.group), token, head


@cute.jit
def out_offset(a, b, token, head):
    return Int64(b) * a.out_stride_b + Int64(token) * a.out_stride_s + Int64(head) * a.out_stride_h


@cute.jit
def lse_offset(a, b, token, head):
    return Int64(b) * a.lse_stride_b + Int64(token) * a.lse_stride_s + Int64(head) * a.lse_stride_h


# ---- what a row attends ----------------------------------------------------------------------------------------------


@cute.jit
def length_of(a, b):
    """cache_seqlens[b] clamped to [0, capacity]."""
    return min(max(_element(a.cache_seqlens, b), 0), a.capacity)


def units_of(tokens):
    tokens = max(tokens, 0)
    return (tokens >> LOG_UNIT) + min(tokens & (UNIT - 1), 1)  # tokens + 63 could overflow


@cute.jit
def attended(a, b, length, count, token):
    """Tokens that a query token attends (fm_attended in internal.h), or fewer than 0; it never falls with `token`."""
    shift = a.causal * (count - 1 - token)
    limit = length - shift
    if a.cp_period != 0:
        limit = in_shard(a, length, global_length(a, b) - shift)
    return limit


def global_length(a, b):
    """global_seqlens[b], at least 0."""
    return max(_element(a.global_seqlens, b), 0)


def in_shard(a, length, tokens):
    """Of a request's first `tokens` tokens over all shards, those among the `length` of this shard."""
    return min(length, local_count(a, max(tokens, 0)))


@cute.jit
def local_count(a, tokens):
    """Of a request's first `tokens` tokens over all shards, those in this shard."""
    turns = Int32(Uint32(tokens) // Uint32(a.cp_period))
    rest = tokens - turns * a.cp_period
    return turns * a.cp_interleave + min(max(rest - a.cp_offset, 0), a.cp_interleave)


@cute.jit
def last_limit(a, b, length, count, block):
    """What the last query token in a row block attends: the most of its rows."""
    return attended(a, b, length, count, min(first_token(a, block) + a.block_tokens, count) - 1)


@cute.jit
def first_limit(a, b, length, count, block):
    """What the first query token in a row block attends: the least of its rows."""
    return attended(a, b, length, count, min(first_token(a, block), count - 1))


@cute.jit
def tile_units(a, b, length, count, k, cluster):
    """Units that any row of the k-th tile of a KV head attends."""
    return units_of(last_limit(a, b, length, count, (k + 1) * cluster - 1))


@cute.jit
def row_surplus(a, row, length, tokens):
    """How many tokens more than the first query token of its block a row attends, which attends to the first `tokens`
    over all shards, of `length` in this one.
    """
    token = a.causal * divide(row, a.by_block_heads)
    surplus = token
    if a.cp_period != 0:
        surplus = in_shard(a, length, tokens + token) - in_shard(a, length, tokens)
    return surplus
