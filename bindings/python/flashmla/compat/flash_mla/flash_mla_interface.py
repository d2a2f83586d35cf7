"""The dense part of FlashMLA's Python interface (github.com/deepseek-ai/FlashMLA, commit 9241ae3) for PyTorch tensors.

Both of its metadata styles work. The handle: `get_mla_metadata()` returns an empty `FlashMLASchedMeta`, and the first
`flash_mla_with_kvcache` that gets it puts its plan there. The older one: `get_mla_metadata(cache_seqlens, ...)` returns
two int32 tensors, which callers copy into buffers of their own. No plan can be made at that point, since the query and
the cache are not known yet; so these tensors say nothing, and each call schedules itself. That is one small kernel a
call, and right whatever became of the tensors, also in a captured graph.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flashmla._attention import D_V
from flashmla._dense_decode import dense_decode
from flashmla._dynamo import eager
from flashmla._frameworks import framework_of
from flashmla._plan import Plan
from flashmla._plan_decode import plan_decode, plan_decode_size
from flashmla._scalars import INT32, integer
from flashmla._torch import Torch
from flashmla._words import a
from flashmla.errors import FlashMLAError, InvalidArgumentError, UnsupportedError

__all__ = [
    "FlashMLASchedMeta",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_mla_sparse_fwd",
    "flash_mla_with_kvcache",
    "get_mla_metadata",
]

_RECORD = 8
"""int32 numbers in a row of tile_scheduler_metadata; callers size their own buffers with it."""

_RANK = 4
"""Of q and k_cache, to read extents by. That other ranks are refused is C's rule."""


class _Schedule(NamedTuple):
    """A plan, and what a handle shows of it. Without a plan the next call makes one in that buffer."""

    plan: Plan | None
    buffer: Any
    num_splits: Any


@dataclass
class FlashMLASchedMeta:
    """What calls of the same shapes share: made empty, filled by the first of them that succeeds.

    A deep copy has tensors of its own. The first call that gets it makes its plan in them.
    """

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
    _schedule: _Schedule | None = field(default=None, init=False, repr=False, compare=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> FlashMLASchedMeta:
        shown = (self.tile_scheduler_metadata, self.num_splits)
        metadata, num_splits = (tensor if tensor is None else tensor.clone() for tensor in shown)
        twin = FlashMLASchedMeta(self.have_initialized, copy.deepcopy(self.config, memo), metadata, num_splits)
        if self._schedule is not None and shown[0] is self._schedule.buffer:
            twin._schedule = _Schedule(None, metadata, num_splits)
        return twin

    def decode(self, tensors: tuple[Any, ...], *, causal: bool, softmax_scale: float | None) -> tuple[Any, Any]:
        """`dense_decode` with the plan of this handle, which is made if there is none. A failed call changes nothing.

        AssertionError, as the peer raises, for a call that differs from the first one.
        """
        config = self._config_of(*tensors[:2], causal=causal)
        schedule = self._schedule
        if self.tile_scheduler_metadata is None:
            schedule = _new_schedule(tensors, causal=causal)
        elif schedule is not None and self.tile_scheduler_metadata is not schedule.buffer:
            schedule = None
        elif schedule is not None and schedule.plan is None:
            schedule = _new_schedule(tensors, causal=causal, of=schedule)
        try:
            result = _decode(tensors, schedule, causal=causal, softmax_scale=softmax_scale)
        except InvalidArgumentError as error:
            if error.status_name != "FLASHMLA_ERROR_PLAN_MISMATCH":
                raise
            # The peer lets more change than our plans do, such as the number of pages.
            schedule = _new_schedule(tensors, causal=causal)
            result = _decode(tensors, schedule, causal=causal, softmax_scale=softmax_scale)
        self.have_initialized, self.config = True, config
        if schedule is not None and schedule is not self._schedule:
            self._schedule = schedule
            self.tile_scheduler_metadata, self.num_splits = schedule.buffer, schedule.num_splits
        return result

    def _config_of(self, q: Any, k_cache: Any, *, causal: bool) -> Config | None:
        """The call's configuration, equal to that of the first one. None for tensors that C refuses by their rank."""
        if not q.ndim == k_cache.ndim == _RANK:
            return None
        b, s_q, h_q, _ = q.shape
        _, page_block_size, h_k, _ = k_cache.shape
        given = self.Config(b, s_q, h_q, page_block_size, h_k, causal, False, None, None, None)
        first = self.config if self.have_initialized else None
        if first not in (None, given):
            raise AssertionError(
                f"{_differences(first, given)}: one FlashMLASchedMeta serves calls of the shapes and flags of its "
                "first call; take a new one from get_mla_metadata() for others"
            )
        return given


@eager
def get_mla_metadata(*args: Any, **options: Any) -> tuple[Any, Any]:
    """(empty handle, None); for older callers' (cache_seqlens, ...) two int32 tensors, (1, 8) and (batch + 1,).

    Raises TypeError for lengths that are no torch.Tensor.

    >>> meta, _ = flashmla.compat.flash_mla.get_mla_metadata()
    """
    lengths = args[0] if args else options.get("cache_seqlens")
    if lengths is None:
        return FlashMLASchedMeta(), None
    _require_tensors(cache_seqlens=lengths)
    return _int32_like(lengths, "new_zeros", (1, _RECORD)), _int32_like(lengths, "new_zeros", (lengths.numel() + 1,))


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
    is_fp8_kvcache: bool = False,  # noqa: FBT001, FBT002
    indices: Any = None,
    attn_sink: Any = None,
    extra_k_cache: Any = None,
    extra_indices_in_kvcache: Any = None,
    topk_length: Any = None,
    extra_topk_length: Any = None,
) -> tuple[Any, Any]:
    """`dense_decode` under the peer's names, returns (out, lse). `tile_scheduler_metadata`: of either style.

    Raises what `dense_decode` raises; NotImplementedError for sparse attention and fp8 caches; AssertionError, as the
    peer does, for a handle that was used by another kind of call.

    >>> q, kv_cache, block_table, cache_seqlens = map(torch.from_numpy, (q, kv_cache, block_table, cache_seqlens))
    >>> meta, _ = flashmla.compat.flash_mla.get_mla_metadata()
    >>> out, lse = flashmla.compat.flash_mla.flash_mla_with_kvcache(q, kv_cache, block_table, cache_seqlens, 512, meta)
    """
    _refuse_sparse_attention(
        indices=indices,
        attn_sink=attn_sink,
        extra_k_cache=extra_k_cache,
        extra_indices_in_kvcache=extra_indices_in_kvcache,
        topk_length=topk_length,
        extra_topk_length=extra_topk_length,
    )
    _require_tensors(q=q, k_cache=k_cache, block_table=block_table, cache_seqlens=cache_seqlens)
    _refuse_fp8(k_cache, is_fp8_kvcache=is_fp8_kvcache)
    _check_head_dim_v(q, head_dim_v)
    tensors = (q, k_cache, block_table, cache_seqlens)
    meta = tile_scheduler_metadata
    try:
        if isinstance(meta, FlashMLASchedMeta):
            if num_splits is not None:
                raise AssertionError("num_splits must be None beside a FlashMLASchedMeta")
            return meta.decode(tensors, causal=causal, softmax_scale=softmax_scale)
        _require_older_metadata(meta)
        return _decode(tensors, None, causal=causal, softmax_scale=softmax_scale)
    except FlashMLAError as error:
        error.args = (str(error).replace("kv_cache", "k_cache"),)  # the peer's name of that argument
        raise


def _not_there(name: str, what: str) -> Callable[..., Any]:
    """A function of the peer that callers may import, and that says that it is none of ours."""

    def refuse(*_args: Any, **_options: Any) -> Any:
        raise NotImplementedError(
            f"{name}: flashmla.compat.flash_mla does dense decode (flash_mla_with_kvcache), no {what}"
        )

    refuse.__name__ = refuse.__qualname__ = name
    return refuse


flash_mla_sparse_fwd = _not_there("flash_mla_sparse_fwd", "sparse prefill")
flash_attn_varlen_func = _not_there("flash_attn_varlen_func", "dense prefill")
flash_attn_varlen_qkvpacked_func = _not_there("flash_attn_varlen_qkvpacked_func", "dense prefill")
flash_attn_varlen_kvpacked_func = _not_there("flash_attn_varlen_kvpacked_func", "dense prefill")


def _decode(
    tensors: tuple[Any, ...], schedule: _Schedule | None, *, causal: bool, softmax_scale: float | None
) -> tuple[Any, Any]:
    plan = None if schedule is None else schedule.plan
    return dense_decode(*tensors, softmax_scale=softmax_scale, causal=causal, plan=plan)


def _new_schedule(tensors: tuple[Any, ...], *, causal: bool, of: _Schedule | None = None) -> _Schedule:
    """`of`: in the tensors of that one, if they are large enough."""
    row_bytes = 4 * _RECORD
    rows = -(-plan_decode_size(*tensors, causal=causal) // row_bytes)
    q = tensors[0]
    if of is None or len(of.buffer) < rows:
        shown = _int32_like(q, "new_empty", (rows, _RECORD)), _int32_like(q, "new_zeros", (len(q) + 1,))
    else:
        shown = of.buffer, of.num_splits
    return _Schedule(plan_decode(*tensors, causal=causal, buffer=shown[0]), *shown)


def _differences(first: Any, given: Any) -> str:
    pairs = (
        (entry.name, getattr(given, entry.name), getattr(first, entry.name)) for entry in dataclasses.fields(given)
    )
    return ", ".join(f"{name} is {new} instead of {old}" for name, new, old in pairs if new != old)


def _int32_like(tensor: Any, method: str, shape: tuple[int, ...]) -> Any:
    return getattr(tensor, method)(shape, dtype=sys.modules["torch"].int32)


def _is_tensor(value: Any) -> bool:
    return isinstance(framework_of(value), Torch)


def _require_tensors(**given: Any) -> None:
    for name, value in given.items():
        if not _is_tensor(value):
            raise TypeError(f"{name} is {a(value)}: a torch.Tensor is needed")


def _require_older_metadata(value: Any) -> None:
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


def _check_head_dim_v(q: Any, head_dim_v: int) -> None:
    """The peer's callers say what follows from q. C refuses a q from which nothing follows."""
    given = integer(head_dim_v, "head_dim_v", INT32)
    head_dim = int(q.shape[-1]) if q.ndim else None  # a traced shape has numbers of its own
    if head_dim in D_V and given != D_V[head_dim]:
        raise UnsupportedError(f"head_dim_v is {given}; with q.shape[-1] {head_dim} it must be {D_V[head_dim]}")


def _refuse_fp8(k_cache: Any, *, is_fp8_kvcache: bool) -> None:
    dtype = str(k_cache.dtype)
    if is_fp8_kvcache or "float8" in dtype:
        said = "is_fp8_kvcache is True" if is_fp8_kvcache else f"k_cache.dtype is {dtype}"
        raise NotImplementedError(
            f"{said}: flashmla.compat.flash_mla does no fp8 caches, k_cache must be bfloat16 or float16 as q is"
        )


def _refuse_sparse_attention(**given: Any) -> None:
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise NotImplementedError(
            f"{names[0]} is given: flashmla.compat.flash_mla does dense decode, no sparse attention; it must be None"
        )
