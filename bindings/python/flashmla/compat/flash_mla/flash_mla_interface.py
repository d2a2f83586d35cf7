"""The decode of FlashMLA's Python interface (github.com/deepseek-ai/FlashMLA, commit 9241ae3) for PyTorch tensors.

Both of its metadata styles work. The handle: `get_mla_metadata()` returns an empty `FlashMLASchedMeta`, and the first
`flash_mla_with_kvcache` that gets it puts its plan there. The older one: `get_mla_metadata(cache_seqlens, ...)` returns
two int32 tensors, which callers copy into buffers of their own. No plan can be made at that point, since the query and
the cache are not known yet; so these tensors say nothing, and each call schedules itself. That is one small kernel a
call, and right whatever became of the tensors, also in a captured graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flashmla._dense_decode import dense_decode
from flashmla._dynamo import eager
from flashmla._sparse_decode import sparse_decode
from flashmla.compat.flash_mla import _arguments as arguments
from flashmla.compat.flash_mla._names import OURS, as_the_peers
from flashmla.compat.flash_mla._sched_meta import FlashMLASchedMeta, placeholders
from flashmla.errors import FlashMLAError

__all__ = [
    "FlashMLASchedMeta",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_mla_sparse_fwd",
    "flash_mla_with_kvcache",
    "get_mla_decoding_metadata",
    "get_mla_metadata",
]


@eager
def get_mla_metadata(*args: Any, **options: Any) -> tuple[Any, Any]:
    """(empty handle, None); for older callers' (cache_seqlens, ...) two int32 tensors, (1, 8) and (batch + 1,).

    Raises TypeError for lengths that are no torch.Tensor.

    >>> meta, _ = flashmla.compat.flash_mla.get_mla_metadata()
    """
    lengths = args[0] if args else options.get("cache_seqlens")
    if lengths is None:
        return FlashMLASchedMeta(), None
    arguments.require_tensors(cache_seqlens=lengths)
    return placeholders(lengths, lengths.numel())


@eager
def get_mla_decoding_metadata(cache_seqlens: Any, *_args: Any, **_options: Any) -> tuple[Any, Any]:
    """What forks call the older style of `get_mla_metadata`.

    Raises TypeError for lengths that are no torch.Tensor.

    >>> lengths = torch.from_numpy(cache_seqlens)
    >>> metadata, num_splits = flashmla.compat.flash_mla.get_mla_decoding_metadata(lengths, 16, 1)
    """
    arguments.require_tensors(cache_seqlens=cache_seqlens)
    return placeholders(cache_seqlens, cache_seqlens.numel())


@eager
def flash_mla_with_kvcache(
    q: Any,
    k_cache: Any,
    block_table: Any,
    cache_seqlens: Any,
    head_dim_v: int,
    tile_scheduler_metadata: Any,
    num_splits: Any = None,
    softmax_scale: float | None = None,
    causal: bool = False,  # noqa: FBT001, FBT002 - the peer's signature
    is_fp8_kvcache: bool | None = False,  # noqa: FBT001, FBT002
    indices: Any = None,
    attn_sink: Any = None,
    extra_k_cache: Any = None,
    extra_indices_in_kvcache: Any = None,
    topk_length: Any = None,
    extra_topk_length: Any = None,
    kv_format: str | None = None,
    *,
    use_legacy: bool = True,
    out: Any = None,
    enable_batch_invariant: bool = False,
) -> tuple[Any, Any]:
    """`dense_decode` or, with indices, `sparse_decode` under the peer's names. Returns (out, lse).

    tile_scheduler_metadata
                    of either style
    block_table, cache_seqlens
                    with indices neither is looked at
    is_fp8_kvcache  with indices it is True, or None: told by k_cache.dtype; without them False or None
    kv_format       with indices: what both caches hold, by the names of `sparse_decode` or of SGLang's fork ("V32",
                    "V32_NO_ROPE", "V4", "V41"); None: "v32" where d_qk is 576, else "model1"
    use_legacy      of SGLang's fork, where False is FlashMLA's release of 2026-09-30, with formats of its own
    out             where the result is to be written
    enable_batch_invariant
                    `batch_invariant` of `dense_decode` and `sparse_decode`

    The last four are arguments of forks and of FlashMLA's later release. Raises what `dense_decode` and `sparse_decode`
    raise, as RuntimeErrors too, which the peer's errors are; NotImplementedError for dense attention on fp8 caches, and
    without use_legacy; AssertionError, as the peer does, for arguments that do not go together, and for a handle that
    was used by another kind of call.

    >>> q, kv_cache, block_table, cache_seqlens = map(torch.from_numpy, (q, kv_cache, block_table, cache_seqlens))
    >>> meta, _ = flashmla.compat.flash_mla.get_mla_metadata()
    >>> out, lse = flashmla.compat.flash_mla.flash_mla_with_kvcache(q, kv_cache, block_table, cache_seqlens, 512, meta)
    """
    if not use_legacy:
        raise NotImplementedError(f"use_legacy is {use_legacy}: it must be True, this is FlashMLA as of commit 9241ae3")
    of_sparse = {
        "attn_sink": attn_sink,
        "extra_k_cache": extra_k_cache,
        "extra_indices_in_kvcache": extra_indices_in_kvcache,
        "topk_length": topk_length,
        "extra_topk_length": extra_topk_length,
    }
    options: dict[str, Any] = {"softmax_scale": softmax_scale, "out": out, "batch_invariant": enable_batch_invariant}
    decode: Callable[..., Any]
    try:
        if indices is None:
            arguments.require_tensors(q=q, k_cache=k_cache, block_table=block_table, cache_seqlens=cache_seqlens)
            arguments.check_dense(k_cache, is_fp8_kvcache=is_fp8_kvcache, **of_sparse, kv_format=kv_format)
            arguments.check_head_dim_v(q, head_dim_v)
            handle = _handle(tile_scheduler_metadata, num_splits)
            decode = dense_decode if handle is None else handle.dense
            return decode(q, k_cache, block_table, cache_seqlens, causal=causal, **options)  # type: ignore[no-any-return]
        given = {name: value for name, value in of_sparse.items() if value is not None}
        arguments.require_tensors(q=q, k_cache=k_cache, indices=indices, **given)
        holds = arguments.sparse_format(q, k_cache, kv_format, is_fp8_kvcache=is_fp8_kvcache, causal=causal)
        arguments.check_head_dim_v(q, head_dim_v)
        handle = _handle(tile_scheduler_metadata, num_splits)
        decode = sparse_decode if handle is None else handle.sparse
        options |= {OURS.get(name, name): value for name, value in given.items()}
        return decode(q, k_cache, indices, kv_format=holds, **options)  # type: ignore[no-any-return]
    except FlashMLAError as error:
        raise as_the_peers(error) from None


def _handle(metadata: Any, num_splits: Any) -> FlashMLASchedMeta | None:
    """None for the older style."""
    if not isinstance(metadata, FlashMLASchedMeta):
        arguments.require_older_metadata(metadata)
        return None
    if num_splits is not None:
        raise AssertionError("num_splits must be None beside a FlashMLASchedMeta")
    return metadata


def _not_there(name: str, what: str) -> Callable[..., Any]:
    """A function of the peer that callers may import, and that says that it is none of ours."""

    def refuse(*_args: Any, **_options: Any) -> Any:
        raise NotImplementedError(f"{name}: flashmla.compat.flash_mla does decode (flash_mla_with_kvcache), no {what}")

    refuse.__name__ = refuse.__qualname__ = name
    return refuse


flash_mla_sparse_fwd = _not_there("flash_mla_sparse_fwd", "sparse prefill")
flash_attn_varlen_func = _not_there("flash_attn_varlen_func", "dense prefill")
flash_attn_varlen_qkvpacked_func = _not_there("flash_attn_varlen_qkvpacked_func", "dense prefill")
flash_attn_varlen_kvpacked_func = _not_there("flash_attn_varlen_kvpacked_func", "dense prefill")
