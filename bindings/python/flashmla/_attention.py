"""What attention calls have in common: shapes of results, the softmax scale, how log-sum-exps are written."""

from __future__ import annotations

import functools
import math
from typing import Any

from flashmla._cdef import ffi
from flashmla._framework import Described
from flashmla._options import Options
from flashmla._scalars import flag, real, single
from flashmla.errors import invalid

D_V = {576: 512, 512: 512, 320: 256, 288: 256, 160: 128, 1088: 1024}
"""d_v by d_qk, to make an output of the right shape. What geometries there are is C's rule: it refuses any other q."""

_DEFAULT_SCALE: int = ffi.integer_const("FLASHMLA_DEFAULT_SCALE")
_LSE_BASE2: int = ffi.integer_const("FLASHMLA_LSE_BASE2")
_EMPTY_LSE_MINUS: int = ffi.integer_const("FLASHMLA_EMPTY_LSE_MINUS")


@functools.lru_cache(maxsize=1024)
def _shapes(q_shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of out and lse. Where RoPE columns are a tensor of their own, q has d_v columns, which are no other d_qk.
    For a q of wrong rank or d_qk shapes are nonsense, and C refuses q first.
    """
    out_shape = (*q_shape[:-1], D_V.get(q_shape[-1], q_shape[-1])) if q_shape else (1,)
    return out_shape, lse_shape(out_shape)


def described(q_shape: tuple[int, ...], options: Options) -> tuple[Described, ...]:
    """out and lse as they are made."""
    out_shape, lse_extents = _shapes(q_shape)
    return (out_shape, options.out_dtype), (lse_extents, "float32")


def set_scale(params: Any, softmax_scale: Any) -> None:
    """None is the default, d_qk^-0.5."""
    if softmax_scale is None:
        params.flags |= _DEFAULT_SCALE
    else:
        params.softmax_scale = single(softmax_scale, "softmax_scale")


def lse_flags(*, lse_base2: bool, empty_lse: float) -> int:
    """The flags that tell how log-sum-exps are written."""
    flags = _LSE_BASE2 if flag(lse_base2, "lse_base2") else 0
    value = real(empty_lse, "empty_lse")
    if value == -math.inf:
        return flags | _EMPTY_LSE_MINUS
    if value != math.inf:
        raise invalid("FLASHMLA_ERROR_VALUE", f"empty_lse is {empty_lse}; it must be inf or -inf")
    return flags


def lse_shape(out_shape: tuple[int, ...]) -> tuple[int, ...]:
    """(..., tokens, heads, d_v) -> (..., heads, tokens). For a wrong rank it is nonsense, and C refuses the model."""
    return (*out_shape[:-3], *out_shape[-2:-1], *out_shape[-3:-2])
