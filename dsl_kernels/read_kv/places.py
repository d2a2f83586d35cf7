"""Where the token of a row of results lies in the pages of a cache."""

import cutlass.cute as cute
from cutlass import Int32, Int64, Uint32

from dsl_kernels.core.memory import number_at
from dsl_kernels.core.schedule import address


@cute.jit
def place_of(a, row, there, last, lane):
    """(The row is of a request, its token is in the cache, page, row in it) of the lane's row, if it is there. The
    warp's first row is that of lane 0, and `last` its last one.
    """
    wanted, token, request = there, Int64(row), Int32(0)
    if a.gathers != 0:
        request = request_of(a, row, there, last, lane)
        begin, end = Int32(0), Int32(0)
        if there and request >= 0:
            begin, end = offset(a, request), offset(a, request + 1)
        wanted = there and row >= begin and row < end
        token = Int64(row) - Int64(begin)
        if wanted and address(a.seq_starts) != 0:
            token += Int64(number_at(Int32, address(a.seq_starts) + 4 * Int64(request) * a.seq_starts_stride))
    capacity = Int64(a.page_size) * Int64(a.max_blocks if a.gathers != 0 else a.num_blocks)
    found = wanted and token >= 0 and token < capacity
    block, place = Int32(0), Int32(0)
    if found:
        block, place = page_of(a, token)
        if a.gathers != 0:
            entry = Int64(request) * a.block_table_stride + Int64(block)
            block = number_at(Int32, address(a.block_table) + 4 * entry)
    found = found and block >= 0 and block < a.num_blocks
    return wanted, found, block, place


@cute.jit
def page_of(a, token):
    """(Number of the page, row in it) of a token or slot. It is below 2^32."""
    block = Uint32(token) // Uint32(a.page_size)
    return Int32(block), Int32(Uint32(token) - block * Uint32(a.page_size))


@cute.jit
def offset(a, request):
    return number_at(Int32, address(a.cu_seqlens) + 4 * Int64(request) * a.cu_seqlens_stride)


@cute.jit
def request_of(a, row, there, last, lane):
    """The last request that begins at the row or before it, -1 if there is none. Of offsets that are out of order,
    any. The warp counts those of its first and of its last row; a lane searches between them.
    """
    low, high = Int32(-1), Int32(-1)
    row_0 = cute.arch.shuffle_sync(row, 0)
    first = Uint32(0)
    while first < Uint32(a.batch):
        before, before_last = False, False
        if first + Uint32(lane) < Uint32(a.batch):
            begin = offset(a, Int32(first) + lane)
            before, before_last = begin <= row_0, begin <= last
        low += cute.arch.popc(cute.arch.vote_ballot_sync(before))
        high += cute.arch.popc(cute.arch.vote_ballot_sync(before_last))
        first += Uint32(32)
    while there and low < high:
        middle = high - (high - low) // 2
        if offset(a, middle) <= row:
            low = middle
        else:
            high = middle - 1
    return low
