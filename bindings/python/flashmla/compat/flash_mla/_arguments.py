"""What FlashMLA's interface asks of arguments beyond the rules of C: of what type they are, and which go together."""

from __future__ import annotations

import sys
from typing import Any

from flashmla._attention import D_V
from flashmla._frameworks import framework_of
from flashmla._scalars import INT32, integer
from flashmla._torch import Torch
from flashmla._words import a
from flashmla.errors import UnsupportedError

_FORMATS = {"V32": "v32", "V32_NO_ROPE": "v32_nope", "V4": "model1", "V41": "v41"}
"""Ours by the names of SGLang's fork (github.com/sgl-project/FlashMLA), which has the keyword kv_format."""

UNQUANTISED = "bf16"


def require_tensors(**given: Any) -> None:
    for name, value in given.items():
        if not _is_tensor(value):
            raise TypeError(f"{name} is {a(value)}: a torch.Tensor is needed")


def require_older_metadata(value: Any) -> None:
    if _is_tensor(value):
        if value.dtype == sys.modules["torch"].int32:
            return
        found = f"a tensor of {value.dtype}"
    else:
        found = a(value)
    raise TypeError(
        f"tile_scheduler_metadata is {found}: the first of the two values that get_mla_metadata returns is needed, "
        "a FlashMLASchedMeta or an int32 tensor"
    )


def check_head_dim_v(q: Any, head_dim_v: int) -> None:
    """The peer's callers say what follows from q. C refuses a q from which nothing follows."""
    given = integer(head_dim_v, "head_dim_v", INT32)
    head_dim = _head_dim(q)
    if head_dim in D_V and given != D_V[head_dim]:
        raise UnsupportedError(f"head_dim_v is {given}; with q.shape[-1] {head_dim} it must be {D_V[head_dim]}")


def check_dense(k_cache: Any, *, is_fp8_kvcache: bool | None, **of_sparse: Any) -> None:
    """`of_sparse`: what goes with indices alone."""
    for name, value in of_sparse.items():
        if value is not None:
            raise AssertionError(f"{name} is given, indices is not: it must be None for dense attention")
    dtype = str(k_cache.dtype)
    if is_fp8_kvcache or "float8" in dtype or "int8" in dtype:  # codes, or their bytes
        said = "is_fp8_kvcache is True" if is_fp8_kvcache else f"k_cache.dtype is {dtype}"
        raise NotImplementedError(
            f"{said}: flashmla.compat.flash_mla does no fp8 caches without indices, k_cache must be bfloat16 or "
            "float16 as q is"
        )


def sparse_format(q: Any, k_cache: Any, kv_format: Any, *, is_fp8_kvcache: bool | None, causal: bool) -> Any:
    """The name that `sparse_decode` has for what the caches hold."""
    if causal:
        raise AssertionError(f"causal is {causal}: with indices it must be False")
    if kv_format is not None:
        name = _FORMATS.get(kv_format, kv_format) if isinstance(kv_format, str) else kv_format
    elif is_fp8_kvcache is None and k_cache.dtype == q.dtype:
        name = UNQUANTISED
    else:
        name = "v32" if _head_dim(q) == 576 else "model1"
    if is_fp8_kvcache not in (None, name != UNQUANTISED):
        raise AssertionError(
            f"is_fp8_kvcache is {is_fp8_kvcache}: with indices it must be True, but for kv_format {UNQUANTISED!r}"
        )
    return name


def _head_dim(q: Any) -> int | None:
    return int(q.shape[-1]) if q.ndim else None  # a traced shape has numbers of its own


def _is_tensor(value: Any) -> bool:
    return isinstance(framework_of(value), Torch)
