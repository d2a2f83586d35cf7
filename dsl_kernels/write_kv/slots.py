"""Slots of tokens, and who writes a slot that several tokens name.

It must hold one of them whole, and warps run in any order. Of few tokens each warp looks at the slots of all later
ones, and leaves its own to them (SEARCH). Of many, a first launch writes the number of each token into the row of its
slot (MARK), where one of them stays; the second writes the tokens whose number is there (MARKED). The number stands
beside four bytes of 0xff. A code is never 0xff, so that no token takes another's columns for its number; in a cache
that is not quantised two bfloat16 would have to be that one of all NaNs, and the two before them the number of a token
with the same slot. The number and what is written behind it are one sector of L2, which so need not be read from memory
when the number is looked for; rows too short for that have the number alone.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64, Uint32

from dsl_kernels.core.memory import fresh_number_at, memory, number_at, put
from dsl_kernels.core.schedule import address

from .params import MARKED, SEARCH

SEARCHED = 4  # slots of a lane, in flight
SECTOR = 32  # bytes
SHORT = 48  # columns, of one byte or more: from here on a row has a whole sector in its first 48 bytes


@cute.jit
def slot_of(a, token, read: cutlass.Constexpr = number_at):
    slot = Int64(token)
    if address(a.slots) != 0:
        where = address(a.slots) + Int64(token) * a.slots_step
        if a.wide_slots != 0:
            slot = read(Int64, where)
        else:
            slot = Int64(read(Int32, where))
    return slot


@cute.jit
def place_of(a, slot):
    """(Page, row in it); of a slot outside the cache, anything."""
    block = Int64(0)
    if a.num_slots < 1 << 31:
        block = Int64(Uint32(slot) // Uint32(a.page_size))
    else:
        block = slot // Int64(a.page_size)
    return block, slot - block * Int64(a.page_size)


@cute.jit
def mark_tokens(a, token, step):
    """A thread a token."""
    while token < Uint32(a.num_tokens):
        slot = slot_of(a, Int32(token))
        if slot >= 0 and slot < a.num_slots:
            block, place = place_of(a, slot)
            row = address(a.pages) + block * a.block_step + place * a.row_step
            if a.columns < SHORT:
                put(Int64, row, mark_of(Int32(token)))
            else:
                sector = cute.make_rmem_tensor((8,), Int32)
                sector.fill(0)
                sector[0], sector[1] = Int32(token), Int32(-1)
                cute.autovec_copy(sector, memory(Int32, mark_place(a, row), 8))
        token += step


@cute.jit
def mark_place(a, row):
    """Where the number of a token stands: where a row begins that is a multiple of 16 bytes, or 16 bytes behind."""
    return row if a.columns < SHORT else (row + (SECTOR - 1)) & Int64(-SECTOR)


@cute.jit
def writes(a, token, slot, there, row, lane):
    """Whether the lane's token, if there is one, and no other token writes its slot, which is at address `row`."""
    mine = there and slot >= 0 and slot < a.num_slots
    if mine and a.manner == MARKED:
        mine = fresh_number_at(Int64, mark_place(a, row)) == mark_of(token)
    if a.manner == SEARCH:
        asking = cute.arch.vote_ballot_sync(mine)
        while asking != 0:
            i = cute.arch.popc(~asking & (asking - 1))  # the first one
            last = is_last(a, cute.arch.shuffle_sync(token, i), cute.arch.shuffle_sync(slot, i), lane)
            mine = mine and (last or lane != i)
            asking &= asking - 1
    return mine


@cute.jit
def is_last(a, token, slot, lane):
    """Whether no later token has the slot. The warp looks for one."""
    later = Int32(0)
    for first in cutlass.range(token + 1 + lane, a.num_tokens, 32 * SEARCHED, unroll=1):
        others = cute.make_rmem_tensor((SEARCHED,), Int64)
        others.fill(-1)
        for i in cutlass.range_constexpr(SEARCHED):
            if first + 32 * i < a.num_tokens:
                others[i] = slot_of(a, first + 32 * i)
        for i in cutlass.range_constexpr(SEARCHED):
            later = later | Int32(others[i] == slot)
    return cute.arch.vote_ballot_sync(later != 0) == 0


def mark_of(token):
    """The number of a token beside four bytes of 0xff."""
    return Int64(token) - Int64(1 << 32)
