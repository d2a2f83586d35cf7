"""The dense part of FlashMLA's Python interface (github.com/deepseek-ai/FlashMLA, commit 9241ae3) for PyTorch tensors.

Both of its metadata styles work. The handle: `get_mla_metadata()` returns an empty `FlashMLASchedMeta`, and the first
`flash_mla_with_kvcache` that gets it puts its plan there. The older one: `get_mla_metadata(cache_seqlens, ...)` returns
two int32 tensors, which callers copy into buffers of their own. No plan can be made at that point, since the query and
the cache are not known yet; so these tensors say nothing, and each call schedules itself. That is one small kernel a
call, and right whatever became of the tensors, also in a captured graph.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

from flashmla._dense_decode import dense_decode
from flashmla._plan import Plan, plan_decode, plan_decode_size
from flashmla.errors import InvalidArgumentError

__all__ = ["FlashMLASchedMeta", "flash_mla_with_kvcache", "get_mla_metadata"]

_RECORD = 8
"""int32 numbers in a row of tile_scheduler_metadata; callers size their own buffers with it."""


@dataclass
class FlashMLASchedMeta:
    """What calls of the same shapes share: made empty, filled by the first of them."""

    @dataclass
    class Config:
        """What must not change from call to call."""

        b: int
        s_q: int
        h_q: int
        page_block_size: int
        h_k: int
        causal: bool
        is_fp8_kvcache: bool
        topk: int | None
        extra_page_block_size: int | None
        extra_topk: int | None

    have_initialized: bool = False
    config: Config | None = None
    tile_scheduler_metadata: Any = None
    """The plan's buffer. Assign None to have a new plan made; with another tensor each call schedules itself."""
    num_splits: Any = None
    """(batch + 1) zeros, for callers that copy it."""
    _plan: Plan | None = field(default=None, init=False, repr=False, compare=False)
    _plan_buffer: Any = field(default=None, init=False, repr=False, compare=False)

    def keep_config(self, q: Any, k_cache: Any, *, causal: bool, is_fp8_kvcache: bool) -> None:
        """Remembers the first call; AssertionError, as the peer raises, for a later one that differs from it."""
        b, s_q, h_q, _ = q.shape
        _, page_block_size, h_k, _ = k_cache.shape
        given = self.Config(b, s_q, h_q, page_block_size, h_k, causal, is_fp8_kvcache, None, None, None)
        if self.have_initialized and self.config != given:
            raise AssertionError(
                f"the call is {given}, the first one with this FlashMLASchedMeta was {self.config}: use a new one"
            )
        self.have_initialized, self.config = True, given

    def plan_for(self, tensors: tuple[Any, ...], *, causal: bool, fresh: bool = False) -> Plan | None:
        """The plan of this handle, made if there is none, or `fresh`; None with a tensor that is not its buffer."""
        if self.tile_scheduler_metadata is None or fresh:
            row_bytes = 4 * _RECORD
            rows = -(-plan_decode_size(*tensors, causal=causal) // row_bytes)
            q = tensors[0]
            buffer = _int32_like(q, "new_empty", (rows, _RECORD))
            self._plan = plan_decode(*tensors, causal=causal, buffer=buffer)
            self.tile_scheduler_metadata = self._plan_buffer = buffer
            self.num_splits = _int32_like(q, "new_zeros", (len(q) + 1,))
        return self._plan if self.tile_scheduler_metadata is self._plan_buffer else None


def get_mla_metadata(*args: Any, **options: Any) -> tuple[Any, Any]:
    """(empty handle, None); for older callers' (cache_seqlens, ...) two int32 tensors, (1, 8) and (batch + 1,)."""
    lengths = args[0] if args else options.get("cache_seqlens")
    if lengths is None:
        return FlashMLASchedMeta(), None
    return _int32_like(lengths, "new_zeros", (1, _RECORD)), _int32_like(lengths, "new_zeros", (len(lengths) + 1,))


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
    is_fp8_kvcache: bool = False,  # noqa: FBT001, FBT002
    indices: Any = None,
    attn_sink: Any = None,
    extra_k_cache: Any = None,
    extra_indices_in_kvcache: Any = None,
    topk_length: Any = None,
    extra_topk_length: Any = None,
) -> tuple[Any, Any]:
    """`dense_decode` under the peer's names, returns (out, lse). `tile_scheduler_metadata`: of either style."""
    _refuse_other_operations(
        is_fp8_kvcache=is_fp8_kvcache or None,
        indices=indices,
        attn_sink=attn_sink,
        extra_k_cache=extra_k_cache,
        extra_indices_in_kvcache=extra_indices_in_kvcache,
        topk_length=topk_length,
        extra_topk_length=extra_topk_length,
    )
    tensors = (q, k_cache, block_table, cache_seqlens)
    # C checks head_dim_v: it is the last extent of an `out` made here.
    out = q.new_empty((*q.shape[:-1], head_dim_v))
    meta = tile_scheduler_metadata
    if not isinstance(meta, FlashMLASchedMeta):
        return dense_decode(*tensors, softmax_scale=softmax_scale, causal=causal, out=out)

    if num_splits is not None:
        raise AssertionError("num_splits must be None beside a FlashMLASchedMeta")
    meta.keep_config(q, k_cache, causal=causal, is_fp8_kvcache=is_fp8_kvcache)
    plan = meta.plan_for(tensors, causal=causal)
    try:
        result = dense_decode(*tensors, softmax_scale=softmax_scale, causal=causal, out=out, plan=plan)
    except InvalidArgumentError as error:
        if error.status_name != "FLASHMLA_ERROR_PLAN_MISMATCH":
            raise
        # The peer lets more change than our plans do, such as the number of pages.
        plan = meta.plan_for(tensors, causal=causal, fresh=True)
        result = dense_decode(*tensors, softmax_scale=softmax_scale, causal=causal, out=out, plan=plan)
    return result


def _int32_like(tensor: Any, method: str, shape: tuple[int, ...]) -> Any:
    return getattr(tensor, method)(shape, dtype=sys.modules["torch"].int32)


def _refuse_other_operations(**given: Any) -> None:
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise NotImplementedError(
            f"{names[0]} is given: flashmla.compat.flash_mla does dense decode of bf16 and fp16 caches, "
            "neither sparse attention nor fp8 caches"
        )
