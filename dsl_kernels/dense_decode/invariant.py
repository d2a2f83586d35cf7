"""Batch-invariant calls: which pieces of a tile a part does, and what becomes of each, see fm_cut of the C core.

A whole tile is folded in the CTA: by way of two slots of the part, the carries, of the node under way and of the nodes
before. A tile that is cut is stored item by item, a piece or a node each, and folded by the kernel of that name.
"""

import cutlass.cute as cute
from cutlass import Boolean, Int32, max, min

from dsl_kernels.core import attended, pieces, schedule
from dsl_kernels.core.schedule_params import LOG_MAX_PARTS, LOG_MAX_SLOTS, LOG_NODE_PIECES, NODE_PIECES
from dsl_kernels.core.threads import opaque

# Marks of a piece in two words of its record. Above the tokens of a block, of which there are at most 64:
TOKENS_MASK = 127
SAME_Q = 1 << 7  # Q is that of the piece before
NEXT_NODE = 1 << 8  # the part goes on with the tile where its next node begins; else with the next piece
# above slot and part, all that PV keeps of the record:
FOLDS_NODE = 1 << (LOG_MAX_SLOTS + LOG_MAX_PARTS)  # the carry of the node comes first
FOLDS_TILE = 2 * FOLDS_NODE  # and then that of the tile
MORE = 4 * FOLDS_NODE  # the part goes on with this tile
OUTPUT = -(2**31)  # the sign: the rows are the output's


@cute.jit
def run_of(a, part, tile):
    """Of a tile in a part: (first piece, end, first slot of its items, log2 of the pieces of an item; is the tile cut,
    does the run end with it).
    """
    first, unit, last, last_unit = schedule.edges(a, part)
    slot, end_slot = schedule.element(a.first_slot, part), schedule.element(a.first_slot, part + 1)
    shift = Int32(0) if schedule.element(a.first_slot, a.num_parts + 1) == 0 else Int32(LOG_NODE_PIECES)
    most = most_pieces(a)
    begins_inside, ends_inside = (tile == first) and (unit > 0), (tile == last) and (last_unit > 0)
    quanta = schedule.divide(last_unit, a.by_piece_units)
    begin, end = Int32(0), most
    if begins_inside:
        begin = min(pieces.piece_at(schedule.divide(unit, a.by_piece_units)), most - 1)
    head = Int32(0)  # items of the tile that the part ends in, where it begins that
    if (last_unit > 0) and ((first != last) or (unit == 0)):
        head = pieces.items_between(Int32(0), quanta, shift)
    if ends_inside:
        end = pieces.piece_at(quanta)
        slot = slot if begins_inside else end_slot - head
    elif begins_inside:  # as many as there is room for: the tile may have become longer or shorter
        end = ((begin >> shift) + min(max(end_slot - slot - head, 1), most)) << shift
    end = max(min(end, most), begin + 1)
    is_cut = (begins_inside or ends_inside) and (a.partial.toint() != 0)
    return begin, end, slot, shift, is_cut, not ends_inside


@cute.jit
def most_pieces(a):
    """Pieces of a request at most."""
    units = attended.units_of(opaque(a.capacity))  # worked out again each time: it takes a register outside
    return pieces.pieces_of(max(schedule.divide(units + a.piece_units - 1, a.by_piece_units), 1))


@cute.jit
def begin_of(a, number):
    """First unit of a piece."""
    return pieces.piece_begin(number) * a.piece_units


@cute.jit
def number_of(a, unit):
    """Of the piece that begins at a unit."""
    return pieces.piece_at(schedule.divide(unit, a.by_piece_units))


@cute.jit
def describe(a, part, number, units, run: tuple):
    """Of a piece of a run of a sequence that has `units` units now; number < 0: the run's first. Returns its
    destination, first unit, end and marks, as a work record has them. Behind the tile's first piece one has two units
    at least, if need be one that no row attends (barriers.py: work records).
    """
    begin, end, slot, shift, is_cut, to_the_end = run
    same = number >= 0
    number = max(number, begin)
    inside = number & (NODE_PIECES - 1)
    stop, natural = units, begin_of(a, number + 1)
    reaches, last = natural >= units, number + 1 >= end
    more, slot_of_it, folds, marks = Boolean(True), Int32(0), Int32(0), Int32(0)
    if same:
        marks = Int32(SAME_Q)
    if is_cut:
        if not (last and to_the_end):
            stop = min(natural, units)
        ends_item = (shift == 0) or (inside == NODE_PIECES - 1) or reaches or last
        slot_of_it = slot + (number >> shift) - (begin >> shift) if ends_item else 2 * part
        following = number + 1
        if (shift > 0) and (inside != 0):
            folds = Int32(FOLDS_NODE)
        if (shift > 0) and ends_item:
            marks |= NEXT_NODE
            following = (number | (NODE_PIECES - 1)) + 1
        more = following < end
    else:
        ends_node = inside == NODE_PIECES - 1
        stop = min(natural, units)
        more = not (reaches or last)
        if inside != 0:
            folds = Int32(FOLDS_NODE)
        if (ends_node or reaches or last) and (number >= NODE_PIECES):
            folds |= FOLDS_TILE
        slot_of_it = 2 * part + (1 if ends_node else 0)
    destination = max(min(slot_of_it, a.slots - 1), 0) | (part << LOG_MAX_SLOTS) | folds
    if more:
        destination |= MORE
    elif not is_cut:
        destination |= OUTPUT
    begin = begin_of(a, number)
    return destination, begin, max(stop, begin + min(number, 1) + 1), marks


def part_of(destination):
    return (destination >> LOG_MAX_SLOTS) & (2**LOG_MAX_PARTS - 1)


def has(destination, mark):
    return (destination & mark) != 0
