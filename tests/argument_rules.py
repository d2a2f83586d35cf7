"""Rules of invalid calls that follow from the library's table of an operation's tensors (argument_tables.py).

What a tensor must be is said in that table alone; here is how each kind of rule is broken, for every tensor, in every
form of the call that gives it other axes. Rules between tensors and scalars are in ops/<operation>/invalid.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import argument_tables
import c_abi
import invalid_calls as spoil
from argument_tables import Argument
from invalid_calls import Rule

HUGE = 2**62  # elements: times two bytes and an extent of 2 it leaves 64 bits
UNALIGNED = (577, 4097)  # elements: no multiple of 16 bytes in any dtype that has the rule
TENSOR_MAP_SPAN = 2**40  # bytes
SCALAR = "1"  # an axis of that extent
# Codes, bits and lanes of elements that are close to right ones, and of none that the library knows.
STRANGE_DTYPES = ((2, 64, 1), (0, 64, 1), (1, 32, 1), (0, 16, 1), (4, 16, 2), (2, 16, 0), (3, 16, 1), (1, 8, 1))


@dataclass(frozen=True)
class Form:
    """A form of an operation's calls: what legal_call() is asked for, and which optional tensors it then has."""

    name: str
    base: dict = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    varlen: bool = False
    stacked: bool = False
    packed: bool = False
    coded: bool = False  # the cache is codes with one scale
    parted: bool = False  # queries come in two parts
    only: str | None = None  # the one backend that has it

    def rows(self, operation: argument_tables.Operation) -> list[Argument]:
        """The tensors of such a call."""
        names = ("varlen", "stacked", "packed", "coded", "parted")
        form = {name: getattr(self, name) for name in names}
        rows = [row.in_form(**form) for row in operation.arguments]
        codes = {row.name for row in operation.arguments if row.coded and self.coded}
        rows = [
            replace(row, like="", dtypes=(*row.dtypes, "bfloat16")) if row.written and row.like in codes else row
            for row in rows
        ]
        return [row for row in rows if not row.optional or row.name in self.optional]


@dataclass(frozen=True)
class Target:
    """One tensor of a call: its row, by which name a CCall finds it, and a pattern for its name in sentences."""

    row: Argument
    key: str
    pattern: str
    element: int  # of a list


def targets(row: Argument, original: Argument) -> list[Target]:
    """The tensors of a row; of a list its first and another."""
    if row.listed:
        return [Target(row, f"{row.name}[{i}]", rf"{row.name}\[{i}\]", i) for i in (0, 1)]
    return [Target(row, f"{row.name}[0]" if original.listed else row.name, row.name, 0)]


def generated(name: str, forms: list[Form]) -> list[Rule]:
    """All rules that the table of an operation implies. A tensor is taken once in each shape that forms give it."""
    operation = argument_tables.operations()[name]
    rules = list(params_rules(operation, forms[0]))
    seen = set()
    for form in forms:
        rows = form.rows(operation)
        shared = Counter(axis for row in rows for axis in row.axes * (2 if row.listed else 1))
        shared_axes = {axis for axis, count in shared.items() if count > 1}
        for row in rows:
            if (row.name, row.axes, row.listed, row.packed, row.dtypes) in seen:
                continue
            seen.add((row.name, row.axes, row.listed, row.packed, row.dtypes))
            original = next(one for one in operation.arguments if one.name == row.name)
            for found in tensor_rules(operation, row, original, shared_axes):
                if found.only is None or form.only in {None, found.only}:
                    rules.append(replace(found, only=form.only or found.only).on(form.name, form.base))
    return rules


def params_rules(operation: argument_tables.Operation, form: Form) -> Iterator[Rule]:
    """Rules that every params struct has."""
    unknown = [1 << bit for bit in range(32) if not operation.flags >> bit & 1]
    rules = [
        Rule("null params", "NULL_POINTER", "params is NULL", spoil.no_params),
        Rule("struct_size", "STRUCT_SIZE", "struct_size", spoil.struct_size(0, 1, 8, -1, -8)),
        Rule("struct_size uninitialised", "STRUCT_SIZE", "struct_size", spoil.struct_size(0xCDCDCDCD, 2**32 - 1)),
        Rule("unknown tail", "STRUCT_SIZE", "struct_size", spoil.tail),
        Rule("flags", "FLAGS", "flags", spoil.field("flags", *unknown, 2**32 - 1)),
        Rule("device type", "DEVICE", "device_type is 12", spoil.everywhere("device", (12, 0))),
        Rule("device number", "DEVICE", "device_id is -1", spoil.everywhere("device", (2, -1))),
    ]
    if operation.num_threads:
        rules.append(Rule("num_threads", "VALUE", "num_threads", spoil.field("num_threads", -1, -(2**31))))
    if scratch := operation.scratch:
        rules += [
            Rule(f"{scratch} null", "NULL_POINTER", rf"params\.{scratch} is NULL", spoil.field(scratch, 0)),
            Rule(f"{scratch} address", "ALIGNMENT", rf"params\.{scratch}", spoil.scratch_off(scratch)),
            Rule(f"{scratch}_size", "WORKSPACE_TOO_SMALL", f"{scratch}_size", spoil.scratch_small(f"{scratch}_size")),
        ]
    for rule in rules:
        yield rule.on("", form.base)


def tensor_rules(
    operation: argument_tables.Operation, row: Argument, original: Argument, shared_axes: set[str]
) -> Iterator[Rule]:
    """The rules on one row."""
    if row.listed:
        yield Rule(f"{row.name} null", "NULL_POINTER", rf"^{row.name} is NULL", spoil.no_tensor(row.name))
    for target in targets(row, original):
        yield from form_rules(target, original)
        yield from dtype_rules(target)
        yield from extent_rules(operation, target, shared_axes)
        if not row.shape_only:
            yield from stride_rules(target)
            yield from map_rules(target)
            yield from memory_rules(target)


def form_rules(target: Target, original: Argument) -> Iterator[Rule]:
    """Present, of the right rank, on the device of the others."""
    key, pattern, rank = target.key, target.pattern, len(target.row.axes)
    if target.row.listed:
        yield Rule(f"{key} null", "NULL_POINTER", f"{pattern} is NULL", spoil.no_part(target.row.name, target.element))
    elif not target.row.optional:
        yield Rule(f"{key} null", "NULL_POINTER", f"{pattern} is NULL", spoil.no_tensor(target.row.name))
    ranks = {0, -1, rank - 1, rank + 1, 2**31 - 1} - {rank}
    wrong, other = sorted(ranks - original.ranks), sorted(ranks & original.ranks)
    yield Rule(f"{key} rank", "SHAPE", rf"{pattern}\.ndim", spoil.attribute(key, "ndim", *wrong))
    if other:  # which may decide the form of the call: then the other tensors do not have it
        yield Rule(f"{key} rank of another form", "SHAPE", r"\.ndim is", spoil.attribute(key, "ndim", *other))
    yield Rule(f"{key} shape null", "NULL_POINTER", rf"{pattern}\.shape", spoil.null_shape(key))
    yield Rule(f"{key} device", "MIXED_DEVICES", pattern, spoil.other_device(key))


def dtype_rules(target: Target) -> Iterator[Rule]:
    """An element type outside the set of the row, which is not that of the tensor that it may be like either."""

    def wrong(call, draw, _legal) -> None:
        tensor = call.tensor(target.key)
        allowed = {c_abi.DTYPE_CODES[name] for name in target.row.dtypes}
        if target.element > 0:
            allowed = {call.tensor(f"{target.row.name}[0]").dtype}
        if target.row.like:
            allowed.add(call.tensor(target.row.like).dtype)
        known = tuple(c_abi.DTYPE_CODES.values())
        tensor.dtype = spoil.one_of(draw, [code for code in known + STRANGE_DTYPES if code not in allowed])

    yield Rule(f"{target.key} dtype", "DTYPE", rf"{target.pattern}\.dtype", wrong)


def extent_rules(operation: argument_tables.Operation, target: Target, shared_axes: set[str]) -> Iterator[Rule]:
    """Within the range of an axis, and as long as the same axis of other tensors."""
    for number, axis in enumerate(target.row.axes):
        where = rf"{target.pattern}\.shape\[{number}\]"
        label = f"{target.key} {axis}"
        if axis not in operation.may_be_empty:
            yield Rule(f"{label} zero", "ZERO_EXTENT", where, spoil.extents({target.key: number}, 0))
        yield Rule(f"{label} negative", "SHAPE", where, spoil.extents({target.key: number}, -1, -(2**63)))
        yield Rule(f"{label} too large", "OVERFLOW", where, spoil.extents({target.key: number}, 2**31, 2**40))
        if axis in shared_axes or axis == SCALAR:
            yield Rule(f"{label} differs", "SHAPE", where, spoil.extent(target.key, number, lambda n: n + 1))


def stride_rules(target: Target) -> Iterator[Rule]:
    """Innermost 1, not negative, aligned, within 64 bits; what is written does not overlap itself."""
    row, key = target.row, target.key
    inner = len(row.axes) - 1
    if row.packed:
        yield from packed_rules(target)
    for number, axis in free_axes(row):
        where = rf"{target.pattern}\.strides\[{number}\]"
        label = f"{key} stride of {axis}"
        if number == inner and not row.free_innermost:
            yield Rule(f"{label} not 1", "STRIDE", where, spoil.stride(key, number, 0, 2, -1, 16))
            continue
        yield Rule(f"{label} negative", "STRIDE", where, spoil.stride(key, number, -1, -8, -576))
        if row.written or row.mapped:  # repeated rows
            only = None if row.written else "gpu"
            yield Rule(f"{label} is 0", "STRIDE", where, spoil.stride(key, number, 0), only=only)
        yield Rule(f"{label} overflows", "OVERFLOW", where, spoil.stride(key, number, HUGE, 2**63 - 8))
        if number == inner:
            continue
        if row.alignment > 4:
            yield Rule(f"{label} unaligned", "ALIGNMENT", where, spoil.stride(key, number, *UNALIGNED))
    steps = range(len(row.axes)) if row.free_innermost else range(0 if row.packed else inner)
    steps = [number for number in steps if not counts_not(row, number)]
    for number in steps:
        for other in steps:
            if row.written and other != number:
                label = f"{key} {row.axes[number]} overlaps {row.axes[other]}"
                yield Rule(label, "STRIDE", rf"{target.pattern}\.strides", spoil.overlap(key, number, other))


def map_rules(target: Target) -> Iterator[Rule]:
    """Axes that a tensor map can hold."""
    last = 1 if target.row.packed else -1  # those within a page of bytes follow from it
    for number, axis in [*enumerate(target.row.axes)][:last] if target.row.mapped else []:
        where = rf"{target.pattern}\.strides\[{number}\]"
        wide = spoil.stride(target.key, number, TENSOR_MAP_SPAN)
        yield Rule(f"{target.key} stride of {axis} too wide for a tensor map", "OVERFLOW", where, wide, only="gpu")


def counts_not(row: Argument, number: int) -> bool:
    """A cache has one KV head unless it is of numbers and read through a tensor map."""
    return row.paged and (row.packed or not row.mapped) and row.axes[number] == "h_kv"


def free_axes(row: Argument) -> list[tuple[int, str]]:
    """The axes whose strides count, but for those within a page of bytes."""
    axes = [*enumerate(row.axes)][: 1 if row.packed else None]
    return [(number, axis) for number, axis in axes if axis != SCALAR and not counts_not(row, number)]


def packed_rules(target: Target) -> Iterator[Rule]:
    """A page is contiguous."""
    for number, axis in enumerate(target.row.axes):
        if number > 0 and not counts_not(target.row, number):
            where = rf"{target.pattern}\.strides\[{number}\]"
            wrong = spoil.stride(target.key, number, 0, -1, 2, 4096, HUGE)
            yield Rule(f"{target.key} stride of {axis} not contiguous", "STRIDE", where, wrong)


def memory_rules(target: Target) -> Iterator[Rule]:
    """An address that is there and aligned."""
    key = target.key
    yield Rule(f"{key} data null", "NULL_POINTER", rf"{target.pattern}\.data", spoil.attribute(key, "data", 0))
    off = [by for by in (1, 2, 4, 8) if by % target.row.alignment != 0]
    yield Rule(f"{key} address", "ALIGNMENT", f"{target.pattern} starts", spoil.misplaced(key, *off))
    around = spoil.attribute(key, "byte_offset", 2**64 - 16, 2**64 - 4096)
    yield Rule(f"{key} address overflows", "OVERFLOW", rf"{target.pattern}\.byte_offset", around)
