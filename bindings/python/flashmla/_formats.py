"""Formats of the KV cache by name: the names are those of the header."""

from __future__ import annotations

from typing import Any, Literal

from flashmla._cdef import ffi
from flashmla._library import lib
from flashmla._options import Options
from flashmla.errors import invalid

KvFormat = Literal["bf16", "v32", "v32_nope", "model1", "v41", "fp8"]
Compute = Literal["default", "fp8"]


def _numbers(enum: str, prefix: str) -> dict[Any, int]:
    values = sorted(ffi.typeof(enum).elements.items())
    return {name.removeprefix(prefix).lower(): number for number, name in values}


_AS_IT_IS: int = ffi.integer_const("FLASHMLA_KV_BF16")
_FORMATS = _numbers("flashmla_kv_format", "FLASHMLA_KV_")
_COMPUTES = _numbers("flashmla_compute", "FLASHMLA_COMPUTE_")


def _number(numbers: dict[Any, int], name: Any, argument: str) -> int:
    try:
        return numbers[name]
    except (KeyError, TypeError):  # TypeError: it has no hash
        raise invalid("FLASHMLA_ERROR_VALUE", f"{argument} is {name!r}; it must be one of {[*numbers]}") from None


def kv_format_number(name: Any, argument: str = "kv_format") -> int:
    """The flashmla_kv_format of that name."""
    return _number(_FORMATS, name, argument)


def compute_number(name: Any) -> int:
    """The flashmla_compute of that name."""
    return _number(_COMPUTES, name, "compute")


def row_made(kv_cache: tuple[int, ...], options: Options) -> tuple[int, str | None]:
    """Columns and dtype of rows that are made of a cache's; None: its dtype."""
    columns: int = lib.flashmla_kv_columns(options.params.kv_format) or (kv_cache[-1] if kv_cache else 1)
    return columns, options.out_dtype or dtype_made(options.params.kv_format)


def dtype_made(kv_format: int) -> str | None:
    """That of a result where another one is not asked for; None: that of the first tensor."""
    return None if kv_format == _AS_IT_IS else "bfloat16"
