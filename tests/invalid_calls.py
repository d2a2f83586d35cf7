"""Rules that a legal call can be made to break, and ways to break them; test_invalid_calls.py runs them.

A way makes a function of (call, draw, legal) that changes the call. `draw` chooses among several wrong values; `legal`
is the LegalCall that it is part of.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from dataclasses import field as field_

from hypothesis import strategies as st

import c_abi
from buffers import Guarded


@dataclass(frozen=True)
class Rule:
    """One rule of flashmla.h."""

    name: str
    status: str  # of flashmla_status, without FLASHMLA_ERROR_
    names: str  # regular expression that the sentence must contain
    spoil: Callable  # (CCall, draw, LegalCall): breaks the rule
    only: str | None = None  # the one backend that has the rule
    base: dict = field_(default_factory=dict)  # what the legal call is: arguments of the operation's legal_call

    def on(self, form: str, base: dict) -> Rule:
        """The rule in another form of the call."""
        return replace(self, name=f"{self.name} ({form})" if form else self.name, base=base)


@dataclass
class LegalCall:
    """A legal call that is about to be spoiled, with everything that must then stay as it is."""

    call: c_abi.CCall
    buffers: dict[str, Guarded]  # inputs, outputs and scratch
    outputs: tuple = ()  # arguments of the entry point after params
    facts: object = None  # what the operation's own rules need

    def check_untouched(self) -> None:
        for name, guarded in self.buffers.items():
            guarded.check_unchanged(name)


def field(name: str, *values):
    """Sets a field of the params struct to one of the values."""

    def spoil(call, draw, _legal):
        call.fields[name] = one_of(draw, values)

    return spoil


def attribute(tensor: str, attribute: str, *values):
    """Sets an attribute of a DLTensor to one of the values."""

    def spoil(call, draw, _legal):
        setattr(call.tensor(tensor), attribute, one_of(draw, values))

    return spoil


def extent(tensor: str, axis: int, change: Callable[[int], int]):
    """Changes one extent, keeping the strides that the old one had."""

    def spoil(call, _draw, _legal):
        spoiled = call.tensor(tensor)
        explicit_strides(spoiled)
        spoiled.shape[axis] = change(spoiled.shape[axis])

    return spoil


def one_of(draw, values):
    """One of the values."""
    return draw(st.sampled_from(values))


def explicit_strides(tensor) -> None:
    if tensor.strides is None:
        tensor.strides = [math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]


def stride(tensor: str, axis: int, *values: int):
    """Sets a stride. It counts: every extent of a small case is at least 2."""

    def spoil(call, draw, _legal):
        spoiled = call.tensor(tensor)
        explicit_strides(spoiled)
        spoiled.strides[axis] = one_of(draw, values)

    return spoil


def no_params(call, _draw, _legal):
    call.null_params = True


def scalar(name: str, memory_of: str):
    """Gives a tensor of one float32, in the memory of another tensor."""

    def spoil(call, _draw, _legal):
        dtype = c_abi.DTYPE_CODES["float32"]
        call.tensors[name] = replace(call.tensor(memory_of), dtype=dtype, shape=[1], strides=None)

    return spoil


def no_tensor(name: str):
    def spoil(call, _draw, _legal):
        call.tensors[name] = None

    return spoil


def struct_size(*sizes: int):
    """An absolute struct_size, or with a negative one that many bytes less than the first version of the struct had."""

    def spoil(call, draw, _legal):
        size = draw(st.sampled_from(sizes))
        call.struct_size = size if size >= 0 else call.first_sizeof + size

    return spoil


def tail(call, draw, _legal):
    tail = bytearray(draw(st.sampled_from((8, 16, 64))))
    tail[draw(st.integers(0, len(tail) - 1))] = draw(st.integers(1, 255))
    call.tail = bytes(tail)


def other_device(name: str):
    """Another device type, or another device of the same type."""

    def spoil(call, draw, _legal):
        kind, number = call.tensor(name).device
        call.tensor(name).device = draw(st.sampled_from(((3 - kind, 0), (kind, number + 1))))

    return spoil


def extents(places: dict[str, int], *values: int):
    """Sets an extent of several tensors, by their axes, to one of the values."""

    def spoil(call, draw, _legal):
        value = one_of(draw, values)
        for name, axis in places.items():
            explicit_strides(call.tensor(name))
            call.tensor(name).shape[axis] = value

    return spoil


def no_part(name: str, part: int):
    """One pointer of several is NULL."""

    def spoil(call, _draw, _legal):
        call.tensors[name][part] = None

    return spoil


def everywhere(attribute: str, value):
    def spoil(call, _draw, _legal):
        for tensor in call.every_tensor():
            setattr(tensor, attribute, value)

    return spoil


def overlap(name: str, axis: int, other: int):
    """An axis with the stride of another one."""

    def spoil(call, _draw, _legal):
        tensor = call.tensor(name)
        explicit_strides(tensor)
        tensor.strides[axis] = tensor.strides[other]

    return spoil


def misplaced(name: str, *by: int):
    """An address a few bytes off."""

    def spoil(call, draw, _legal):
        call.tensor(name).byte_offset += draw(st.sampled_from(by))

    return spoil


def scratch_off(name: str):
    def spoil(call, draw, _legal):
        call.fields[name] += draw(st.sampled_from((1, 4, 8)))

    return spoil


def scratch_small(name: str):
    def spoil(call, draw, _legal):
        size = call.fields[name]
        call.fields[name] = draw(st.sampled_from((0, size // 2, size - 1)))

    return spoil


def null_shape(name: str):
    def spoil(call, _draw, _legal):
        tensor = call.tensor(name)
        tensor.ndim, tensor.shape, tensor.strides = len(tensor.shape), None, None

    return spoil
