"""Device view of the schedule: parts, tiles, pieces and row limits, as defined in libflashmla/src/internal.h.

`a` is the kernel's parameter namespace. Everything read from device memory is clamped: cuts to the tile range, lengths
to the capacity of the block table, so that no value can lead outside the caller's tensors.
"""

import cutlass.cute as cute
from cutlass import Int32, Int64, max, min

PAGE = 64


def cut(a, w, field):
    """Field 0 (tile) or 1 (page) of cut w; never negative."""
    return max(cute.make_tensor(a.cuts, cute.make_layout(2**30))[2 * w + field], 0)


@cute.jit
def part_tiles(a, w):
    """First tile and end tile (exclusive) of part w."""
    first, last = cut(a, w, 0), cut(a, w + 1, 0)
    first_page, last_page = cut(a, w, 1), cut(a, w + 1, 1)  # loaded with the others, wanted or not
    begin = first_page if first == last else Int32(0)
    end = last + 1 if last_page > begin else last
    return first, min(end, a.num_tiles)


@cute.jit
def seek(a, w, t, step):
    """The first piece at or after tile t of part w, going on with part w + step: (part, tile); a part >= num_parts is
    the end of the work.
    """
    first, end = part_tiles(a, min(w, a.num_parts - 1))
    t = max(t, first)
    while (w < a.num_parts) and (t >= end):
        w += step
        first, end = part_tiles(a, min(w, a.num_parts - 1))
        t = first
    return w, t


@cute.jit
def first_page(a, w, t):
    """Where the piece of tile t in part w begins, by the schedule."""
    return cut(a, w, 1) if t == cut(a, w, 0) else Int32(0)


@cute.jit
def piece_pages(a, w, t, pages):
    """Pages [lo, hi) of the piece of tile t in part w, of a sequence that has `pages` pages now."""
    lo = first_page(a, w, t)
    hi = min(cut(a, w + 1, 1), pages) if t == cut(a, w + 1, 0) else pages
    return min(lo, hi), hi


@cute.jit
def partial_slot(a, w, t):
    """Slot of the partial result, or -1 when the piece is a whole tile and goes straight to the output.

    Without room for partials there are only whole tiles, whatever the cuts say.
    """
    begins = (t != cut(a, w, 0)) or (cut(a, w, 1) == 0)
    ends = t != cut(a, w + 1, 0)
    slot = 2 * w + 1 if begins else 2 * w
    return Int32(-1) if (begins and ends) or (a.partial.toint() == 0) else slot


@cute.jit
def tile_place(a, t):
    """(request, KV head, tile within them)."""
    column = t // a.batch
    head = column // a.tiles_per_head
    return t - column * a.batch, head, column - head * a.tiles_per_head


@cute.jit
def length_of(a, b):
    """cache_seqlens[b] clamped to [0, capacity]."""
    tokens = max(cute.make_tensor(a.cache_seqlens, cute.make_layout(2**30))[b], 0)
    return tokens if tokens // PAGE < a.max_blocks else a.max_blocks * PAGE


def pages_of(tokens):
    tokens = max(tokens, 0)
    return tokens // PAGE + min(tokens % PAGE, 1)  # tokens + 63 could overflow


@cute.jit
def last_token_limit(a, length, block):
    """Attended tokens of the last query token in a row block (the largest limit of its rows)."""
    token = min((block // a.head_chunks + 1) * a.block_tokens, a.s_q) - 1
    return length - a.causal * (a.s_q - 1 - token)


@cute.jit
def first_token_limit(a, length, block):
    """Attended tokens of the first query token in a row block."""
    token = min((block // a.head_chunks) * a.block_tokens, a.s_q - 1)
    return length - a.causal * (a.s_q - 1 - token)


@cute.jit
def tile_extent(a, b, k, cluster):
    """(Tokens of request b, pages that any row of its k-th tile attends)."""
    length = length_of(a, b)
    return length, pages_of(last_token_limit(a, length, (k + 1) * cluster - 1))


@cute.jit
def row_place(a, block, row):
    """Row of a block -> (valid, query token, head within the group)."""
    token_in_block = row // a.block_heads
    group_of_tokens = block // a.head_chunks
    token = group_of_tokens * a.block_tokens + token_in_block
    head = (block - group_of_tokens * a.head_chunks) * a.block_heads + row - token_in_block * a.block_heads
    return (token_in_block < a.block_tokens) and (token < a.s_q) and (head < a.group), token, head


@cute.jit
def out_offset(a, b, token, head):
    return Int64(b) * a.out_stride_b + Int64(token) * a.out_stride_s + Int64(head) * a.out_stride_h


@cute.jit
def lse_offset(a, b, token, head):
    return Int64(b) * a.lse_stride_b + Int64(token) * a.lse_stride_s + Int64(head) * a.lse_stride_h
