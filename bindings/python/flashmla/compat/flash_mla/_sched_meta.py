"""The handle of FlashMLA's interface, which the calls of a step share, and what stands in for its metadata."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flashmla._dense_decode import dense_decode
from flashmla._plan import Plan
from flashmla._plan_decode import plan_decode, plan_decode_size
from flashmla._plan_sparse_decode import plan_sparse_decode, plan_sparse_decode_size
from flashmla._sparse_decode import sparse_decode
from flashmla.compat.flash_mla._arguments import UNQUANTISED
from flashmla.errors import InvalidArgumentError

_RECORD = 8
"""int32 numbers in a row of tile_scheduler_metadata; callers size their own buffers with it."""

_RANK = 4
"""Of q and caches, one more than of indices, to read extents by. That other ranks are refused is C's rule."""


class _Schedule(NamedTuple):
    """A plan, and what a handle shows of it. Without a plan the next call makes one in that buffer."""

    plan: Plan | None
    buffer: Any
    num_splits: Any
    batch_invariant: bool


class _Planner(NamedTuple):
    """How the plan of a call is made: the function, its size query, and what both are called with."""

    plan: Callable[..., Plan]
    size: Callable[..., int]
    tensors: tuple[Any, ...]
    options: dict[str, Any]

    def schedule(self, of: _Schedule | None = None) -> _Schedule:
        """`of`: in the tensors of that one, if they are large enough."""
        row_bytes = 4 * _RECORD
        rows = -(-self.size(*self.tensors, **self.options) // row_bytes)
        q = self.tensors[0]
        if of is None or len(of.buffer) < rows:
            shown = _int32_like(q, "new_empty", (rows, _RECORD)), _int32_like(q, "new_zeros", (len(q) + 1,))
        else:
            shown = of.buffer, of.num_splits
        plan = self.plan(*self.tensors, **self.options, buffer=shown[0])
        return _Schedule(plan, *shown, self.options["batch_invariant"])


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
            twin._schedule = _Schedule(None, metadata, num_splits, self._schedule.batch_invariant)
        return twin

    def dense(self, *tensors: Any, causal: bool, batch_invariant: bool, **options: Any) -> Any:
        """`dense_decode` with the plan of this handle, which is made if there is none. A failed call changes nothing.

        AssertionError, as the peer raises, for a call that differs from the first one.
        """
        config = self._config_of(tensors[0], tensors[1], causal, False)
        planned = {"causal": causal, "batch_invariant": batch_invariant}
        planner = _Planner(plan_decode, plan_decode_size, tensors, planned)
        return self._decode(dense_decode, planner, config, tensors, planned | options)

    def sparse(
        self, q: Any, k_cache: Any, indices: Any, *, kv_format: Any, batch_invariant: bool, **options: Any
    ) -> Any:
        """The same of `sparse_decode`."""
        extra_indices = options.get("extra_indices")
        extra = options.get("extra_kv_cache"), extra_indices
        config = self._config_of(q, k_cache, False, kv_format != UNQUANTISED, indices, *extra)
        names = ("topk_length",) if extra_indices is None else ("topk_length", "extra_indices", "extra_topk_length")
        planned = {name: options.get(name) for name in names} | {"batch_invariant": batch_invariant}
        planner = _Planner(plan_sparse_decode, plan_sparse_decode_size, (q, indices), planned)
        called = options | {"kv_format": kv_format, "batch_invariant": batch_invariant}
        return self._decode(sparse_decode, planner, config, (q, k_cache, indices), called)

    def _decode(
        self,
        decode: Callable[..., Any],
        planner: _Planner,
        config: Config | None,
        tensors: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        schedule = self._schedule
        if self.tile_scheduler_metadata is None:
            schedule = planner.schedule()
        elif schedule is not None and self.tile_scheduler_metadata is not schedule.buffer:
            schedule = None
        elif schedule is not None and schedule.batch_invariant != planner.options["batch_invariant"]:
            schedule = planner.schedule()
        elif schedule is not None and schedule.plan is None:
            schedule = planner.schedule(of=schedule)
        try:
            result = decode(*tensors, **options, plan=None if schedule is None else schedule.plan)
        except InvalidArgumentError as error:
            if error.status_name != "FLASHMLA_ERROR_PLAN_MISMATCH":
                raise
            # The peer lets more change than our plans do, such as the number of pages.
            schedule = planner.schedule()
            result = decode(*tensors, **options, plan=schedule.plan)
        self.have_initialized, self.config = True, config
        if schedule is not None and schedule is not self._schedule:
            self._schedule = schedule
            self.tile_scheduler_metadata, self.num_splits = schedule.buffer, schedule.num_splits
        return result

    def _config_of(
        self,
        q: Any,
        k_cache: Any,
        causal: bool,  # noqa: FBT001 - in the order of Config
        is_fp8_kvcache: bool,  # noqa: FBT001
        indices: Any = None,
        extra_k_cache: Any = None,
        extra_indices: Any = None,
    ) -> Config | None:
        """The call's configuration, equal to that of the first one. None for tensors that C refuses by their rank."""
        ranks = [(tensor, _RANK) for tensor in (q, k_cache, extra_k_cache)]
        ranks += [(tensor, _RANK - 1) for tensor in (indices, extra_indices)]
        if any(tensor is not None and tensor.ndim != rank for tensor, rank in ranks):
            return None
        b, s_q, h_q, _ = q.shape
        _, page_block_size, h_k, _ = k_cache.shape
        topk, extra_topk = (None if tensor is None else tensor.shape[-1] for tensor in (indices, extra_indices))
        extra_page_size = None if extra_k_cache is None else extra_k_cache.shape[1]
        shapes = (b, s_q, h_q, page_block_size, h_k)
        given = self.Config(*shapes, causal, is_fp8_kvcache, topk, extra_page_size, extra_topk)
        first = self.config if self.have_initialized else None
        if first not in (None, given):
            raise AssertionError(
                f"{_differences(first, given)}: one FlashMLASchedMeta serves calls of the shapes and flags of its "
                "first call; take a new one from get_mla_metadata() for others"
            )
        return given


def placeholders(like: Any, batch: int) -> tuple[Any, Any]:
    """Tensors for callers that copy or slice the metadata. They say nothing, whatever becomes of them."""
    return _int32_like(like, "new_zeros", (1, _RECORD)), _int32_like(like, "new_zeros", (batch + 1,))


def _differences(first: Any, given: Any) -> str:
    pairs = (
        (entry.name, getattr(given, entry.name), getattr(first, entry.name)) for entry in dataclasses.fields(given)
    )
    return ", ".join(f"{name} is {new} instead of {old}" for name, new, old in pairs if new != old)


def _int32_like(tensor: Any, method: str, shape: tuple[int, ...]) -> Any:
    return getattr(tensor, method)(shape, dtype=sys.modules["torch"].int32)
