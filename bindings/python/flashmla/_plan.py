"""`plan_decode`: the schedule that the layers of one decode step share."""

from __future__ import annotations

from typing import Any

from flashmla._call import params_type
from flashmla._cdef import ffi
from flashmla._library import lib
from flashmla._scalars import INT32, integer
from flashmla._step import Step
from flashmla._tensor import SupportsDLPack, shape

_PLAN = ffi.typeof("flashmla_plan *")
_PARAMS = params_type("flashmla_plan_decode_params")


class Plan:
    """The split-KV schedule of one decode step, from `plan_decode`. Opaque; keeps its buffer alive.

    It serves every call with the shapes, dtype, flags and device it was made for, from any thread. Lengths may change
    afterwards: results stay right, only the balance suffers.
    """

    __slots__ = ("_buffer", "_c", "_facts")

    def __init__(self, c: Any, buffer: Any, **facts: Any) -> None:
        self._c = c  # the flashmla_plan *
        self._buffer = buffer
        self._facts = facts

    def __repr__(self) -> str:
        return f"<flashmla.Plan {', '.join(f'{name}={value}' for name, value in self._facts.items())}>"


def plan_decode(
    q: SupportsDLPack,
    kv_cache: SupportsDLPack,
    block_table: SupportsDLPack,
    cache_seqlens: SupportsDLPack,
    *,
    causal: bool = False,
    num_splits: int = 0,
    batch_invariant: bool = False,
    cu_seqlens_q: SupportsDLPack | None = None,
    max_seqlen_q: int = 0,
    buffer: Any = None,
    stream: Any = None,
) -> Plan:
    """Makes the schedule that all `dense_decode` calls with these arguments' shapes share; only the lengths are read.

    num_splits       0: chosen for balance; n: every request is cut into n parts, or into its units of 64 tokens if
                     those are fewer
    batch_invariant  requests are cut by their own length alone, so that the bits of a request's result do not depend
                     on the requests beside it
    cu_seqlens_q     as in `dense_decode`; read too
    max_seqlen_q     as in `dense_decode`
    buffer           contiguous memory of `plan_decode_size` bytes on q's device, kept alive by the plan; None: made by
                     q's framework
    """
    step = Step(
        _PARAMS,
        (q, kv_cache, block_table, cache_seqlens),
        cu_seqlens_q,
        max_seqlen_q,
        stream,
        causal=causal,
        batch_invariant=batch_invariant,
    )
    params = step.params
    params.num_splits = integer(num_splits, "num_splits", INT32)
    size = step.query(lib.flashmla_plan_decode_size)
    keep, params.buffer, params.buffer_size = step.scratch(buffer, size, "buffer")
    c = ffi.new(_PLAN)
    step.run(lib.flashmla_plan_decode, c)
    shapes = {"q": shape(params.q), "kv_cache": shape(params.kv_cache)}
    flags = {"causal": bool(causal), "batch_invariant": bool(batch_invariant)}  # 1 and NumPy's bool were accepted too
    return Plan(c, keep, **shapes, **flags, num_splits=num_splits, bytes=size)


def plan_decode_size(
    q: SupportsDLPack,
    kv_cache: SupportsDLPack,
    block_table: SupportsDLPack,
    cache_seqlens: SupportsDLPack,
    *,
    causal: bool = False,
    num_splits: int = 0,
    batch_invariant: bool = False,
    cu_seqlens_q: SupportsDLPack | None = None,
    max_seqlen_q: int = 0,
) -> int:
    """Bytes of `buffer` that `plan_decode` needs: from shapes, flags and device, never from lengths."""
    step = Step(
        _PARAMS,
        (q, kv_cache, block_table, cache_seqlens),
        cu_seqlens_q,
        max_seqlen_q,
        None,
        causal=causal,
        batch_invariant=batch_invariant,
    )
    step.params.num_splits = integer(num_splits, "num_splits", INT32)
    return step.query(lib.flashmla_plan_decode_size)
