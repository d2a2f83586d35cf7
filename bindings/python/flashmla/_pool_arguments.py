"""What the calls of a pool are given, as C reads it: token ids, names of sequences, counts, params without tensors."""

from __future__ import annotations

import array
from typing import Any

from flashmla._cdef import ffi
from flashmla._formats import kv_format_number
from flashmla._operation import PYTHON_NAMES
from flashmla._scalars import UINT64, integer
from flashmla._words import a
from flashmla.errors import invalid

_SEQUENCES = ffi.typeof("flashmla_sequence[]")
_COUNTS = ffi.typeof("int32_t[]")
_IDS = ffi.typeof("int64_t[]")
_NO_TOKENS = array.array("q")


def pool_params(kv_format: Any, hash_key: int = 0) -> Any:
    """A `flashmla_pool_params *` without its tensors."""
    params = ffi.new("flashmla_pool_params *")
    params.struct_size = ffi.sizeof("flashmla_pool_params")
    params.flags = PYTHON_NAMES
    params.kv_format = kv_format_number(kv_format)
    params.hash_key = [hash_key % 2**64, hash_key >> 64]
    return params


def _array(code: str, numbers: Any) -> array.array[int]:
    """Of bytes each is a number, as for whoever iterates over them; an array.array would put several into one."""
    return array.array(code, list(numbers) if isinstance(numbers, (bytes, bytearray)) else numbers)


def token_ids(tokens: Any) -> Any:
    """Token ids as 64-bit integers behind one another; copied only where they are not that yet."""
    if tokens is None:
        return ffi.from_buffer(_IDS, _NO_TOKENS)
    try:
        view = memoryview(tokens)
    except (TypeError, ValueError):
        view = None
    if view is not None and view.ndim == 1 and view.c_contiguous and view.format in {"l", "q"} and view.itemsize == 8:
        return ffi.from_buffer(_IDS, view)
    try:
        return ffi.from_buffer(_IDS, _array("q", tokens.tolist() if hasattr(tokens, "tolist") else tokens))
    except OverflowError:
        raise invalid("FLASHMLA_ERROR_VALUE", "a token id is beyond 64 bits; it must be in [-2^63, 2^63)") from None
    except (TypeError, ValueError, NotImplementedError) as error:  # whatever its framework says
        raise TypeError(f"tokens is {a(tokens)}: integers are needed ({error})") from None


def _numbers(kind: Any, code: str, numbers: Any, argument: str) -> Any:
    """Integers as an array of C; `code`: of its type in an array.array, which takes half the time of cffi's."""
    try:
        return ffi.from_buffer(kind, _array(code, numbers))
    except OverflowError as error:
        raise invalid("FLASHMLA_ERROR_VALUE", f"{argument}: {error}") from None
    except (TypeError, ValueError, NotImplementedError) as error:
        raise TypeError(f"{argument} is {a(numbers)}: integers are needed ({error})") from None


def names_of(seqs: Any) -> Any:
    """Names of sequences as an array of C."""
    return _numbers(_SEQUENCES, "Q", seqs, "seqs")


def counts_of(counts: Any) -> Any:
    """Numbers of tokens as an array of C."""
    return _numbers(_COUNTS, "i", counts, "counts")


def name_of(seq: Any) -> int:
    """The name of a sequence."""
    return integer(seq, "seq", UINT64)
