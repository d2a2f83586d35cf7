"""What query rows attend: lengths of the cache, the causal mask, shards. `a`: the kernel's parameter namespace.

Lengths, which come from device memory, are clamped to what a block table or a selection can name.
"""

import cutlass.cute as cute
from cutlass import Int32, Uint32, max, min

from .schedule import divide, element, first_token, given, query_range
from .schedule_params import LOG_UNIT, UNIT


@cute.jit
def length_of(a, request):
    """KV items of the request, clamped."""
    return clamped(a, element(a.lengths, request))


@cute.jit
def items_of(a, request):
    """The same where there may be a second cache and no lengths: those of the extra cache begin with a unit. With a
    window, those from its begin on.
    """
    items = a.capacity
    if given(a.lengths):
        items = length_of(a, request)
    if a.window > 0:
        _, count = query_range(a, request)
        items -= first_item(a, items, count)
    if a.extra_capacity > 0:
        extra = a.extra_capacity
        if given(a.extra_lengths):
            extra = min(max(element(a.extra_lengths, request), 0), extra)
        items = (units_of(items) << LOG_UNIT) + extra
    return items


@cute.jit
def first_item(a, length, count):
    """Of a request with `count` query tokens and `length` items: with a window, the begin of the unit in which that of
    the first query token begins (fm_first_item of the C core); units are counted from there.
    """
    first = Int32(0)
    if a.window > 0:
        first = max(max(length - (max(count, 1) - 1), 0) - a.window, 0) & ~(UNIT - 1)
    return first


def clamped(a, length):
    """To [0, capacity]."""
    return min(max(length, 0), a.capacity)


def units_of(tokens):
    tokens = max(tokens, 0)
    return (tokens >> LOG_UNIT) + min(tokens & (UNIT - 1), 1)  # tokens + 63 could overflow


@cute.jit
def attended(a, request, length, count, token):
    """Tokens that a query token attends (fm_attended of the C core), or fewer than 0; it never falls with `token`."""
    shift = a.causal * (count - 1 - token)
    limit = length - shift
    if a.cp_period != 0:
        limit = in_shard(a, length, global_length(a, request) - shift)
    return limit


def global_length(a, request):
    """global_seqlens of the request, at least 0."""
    return max(element(a.global_seqlens, request), 0)


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
def last_limit(a, request, length, count, block):
    """What the last query token in a row block attends: the most of its rows."""
    return attended(a, request, length, count, min(first_token(a, block) + a.block_tokens, count) - 1)


@cute.jit
def tile_units(a, request, length, count, tile_of_head, cluster):
    """Units that any row of a tile attends."""
    return units_of(last_limit(a, request, length, count, (tile_of_head + 1) * cluster - 1))


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
