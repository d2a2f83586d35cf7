"""Python scalars as the C types of the params structs: one that does not fit is named, with its value and the rule.

What a value may be beyond its type is C's rule.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from flashmla._cdef import ffi
from flashmla._words import a
from flashmla.errors import invalid

MadeT = TypeVar("MadeT")


class Integer(NamedTuple):
    """An integer type of C and the words for what is none."""

    allowed: range
    needed: str
    rule: str


INT32 = Integer(range(-(2**31), 2**31), "an integer", "it must fit 32 bits")
INT64 = Integer(range(-(2**63), 2**63), "an integer", "it must fit 64 bits")
UINT64 = Integer(range(2**64), "an integer", "it must be in [0, 2^64)")
UINT128 = Integer(range(2**128), "an integer", "it must be in [0, 2^128)")
EXTENT = Integer(range(2**31), "an integer", "it must be in [0, 2^31)")
STREAM = Integer(range(2**64), "an integer CUstream or a stream object", "it must be in [0, 2^64)")

_FLAGS = {True: True, False: False}
_NOT_REAL = (bool, str, bytes, bytearray)
_CONSTANT = frozenset({int, float, bool, str, type(None)})
_MOST_REMEMBERED = 1024
_caches: list[Any] = []


def integer(value: Any, argument: str, kind: Integer) -> int:
    """An integer of any type, NumPy's too. True and False are none."""
    if type(value) is int and value in kind.allowed:
        return value  # nearly always: the rest costs a microsecond
    try:
        number = operator.index(value)
    except TypeError:
        raise _wrong_type(value, argument, kind.needed) from None
    if isinstance(value, bool):
        raise _wrong_type(value, argument, kind.needed)
    if number not in kind.allowed:
        raise invalid("FLASHMLA_ERROR_VALUE", f"{argument} is {number}; {kind.rule}")
    return number


def real(value: Any, argument: str) -> float:
    """A float from anything that is a number; text is none, although float() reads it."""
    if isinstance(value, _NOT_REAL):
        raise _wrong_type(value, argument, "a number")
    try:
        return float(value)
    except (TypeError, ValueError):  # ValueError: an array of several numbers
        raise _wrong_type(value, argument, "a number") from None
    except OverflowError:
        raise invalid("FLASHMLA_ERROR_VALUE", f"{argument} is beyond 1.8e308; it must fit a float") from None


def single(value: Any, argument: str) -> float:
    """A number as a float of 32 bits, in which no finite one becomes infinite and none but 0 becomes 0."""
    number = real(value, argument)
    kept = float(ffi.cast("float", number))
    if (math.isinf(kept) and not math.isinf(number)) or (kept == 0 and number != 0):
        raise invalid("FLASHMLA_ERROR_VALUE", f"{argument} is {number:g}; it must fit a float of 32 bits")
    return number


def flag(value: Any, argument: str) -> bool:
    """True or False, or what equals one of them: 1, NumPy's bool."""
    try:
        return _FLAGS[value]
    except (KeyError, TypeError):  # TypeError: a list or an array, which has no hash
        raise _wrong_type(value, argument, "True or False") from None


def _wrong_type(value: Any, argument: str, needed: str) -> TypeError:
    return TypeError(f"{argument} is {value!r}, {a(value)}: {needed} is needed")


def remembered(make: Callable[..., MadeT]) -> Callable[..., MadeT]:
    """`make`, with what it made kept by the values and types of its arguments.

    Arguments of types whose values may change, such as arrays, are a TypeError: then call `make` itself.
    """

    @functools.lru_cache(maxsize=_MOST_REMEMBERED, typed=True)
    def kept(*values: Any) -> MadeT:
        if not _CONSTANT.issuperset(map(type, values)):
            raise TypeError
        return make(*values)

    _caches.append(kept)
    return kept


def forget() -> None:
    """Drops all that is remembered."""
    for cache in _caches:
        cache.cache_clear()
