"""`plan_decode`: the schedule that the layers of one decode step share."""

from __future__ import annotations

from typing import Any

from flashmla._cdef import ffi
from flashmla._dynamo import eager
from flashmla._exchange import UNUSUAL
from flashmla._operation import Operation, Options, Ready, raise_if_enqueued
from flashmla._plan import Plan, step_params
from flashmla._prepared import by_name, preparable
from flashmla._scalars import INT32, integer, remembered
from flashmla._tensor import SupportsDLPack, shape

_PLAN = ffi.typeof("flashmla_plan *")
_NUMBER = ffi.typeof("uintptr_t")  # looked up once: each time it would take half a microsecond

_OPERATION = Operation(
    "plan_decode",
    ("q", "kv_cache", "block_table", "cache_seqlens"),
    optional=("cu_seqlens_q",),
    scratch=("buffer", "flashmla_plan_decode_size"),
    makes_plan=True,
)


def _options(causal: Any, batch_invariant: Any, max_seqlen_q: Any, num_splits: Any) -> Options:
    """The scalars of plan_decode."""
    params = step_params(_OPERATION, causal, batch_invariant, max_seqlen_q)
    params.num_splits = integer(num_splits, "num_splits", INT32)
    return Options(_OPERATION, params)


_remembered = remembered(_options)


def _shapes(ready: Ready) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of q and kv_cache."""
    params = ready.call.params
    return shape(params.q), shape(params.kv_cache)


def _unmade(ready: Ready, arguments: dict[str, Any]) -> Plan:
    """The plan that a prepared call fills when it runs."""
    c = ffi.new(_PLAN)
    flags = (arguments[name] for name in ("causal", "batch_invariant", "num_splits"))
    return Plan(c, int(ffi.cast("uintptr_t", c)), ready.scratch, (*_shapes(ready), *flags))


@eager
@preparable(_OPERATION, by_name(_options), result=_unmade)
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
    batch_invariant  requests are cut at fixed positions, so that the bits of a query token's row do not depend on the
                     requests and query tokens beside it
    cu_seqlens_q     as in `dense_decode`; read too
    max_seqlen_q     as in `dense_decode`
    buffer           contiguous memory of `plan_decode_size` bytes on q's device, kept alive by the plan; None: made by
                     q's framework

    Raises what `dense_decode` raises.

    >>> plan = flashmla.plan_decode(q, kv_cache, block_table, cache_seqlens)
    >>> for layer in range(2):
    ...     out, lse = flashmla.dense_decode(q, kv_cache, block_table, cache_seqlens, plan=plan)
    """
    values = causal, batch_invariant, max_seqlen_q, num_splits
    try:
        options = _remembered(*values)
    except TypeError:
        options = None
    if options is None:
        options = _options(*values)
    c = ffi.new(_PLAN)
    address = int(ffi.cast(_NUMBER, c))

    fast = options.fast[type(q)] if stream is None else None
    if fast is not None:
        try:
            made = fast.call(q, kv_cache, block_table, cache_seqlens, cu_seqlens_q, buffer, address)
        except Exception:  # noqa: BLE001 - whatever the tensors' framework said: the long way says it better
            made = UNUSUAL
        if type(made) is not int or made == 0:
            kept = buffer if type(made) is int else made
            shapes: tuple[Any, Any] = (q.shape, kv_cache.shape)  # type: ignore[attr-defined] # such tensors have it
            return Plan(c, address, kept, (*shapes, causal, batch_invariant, num_splits))
        raise_if_enqueued(made)

    inputs = (q, kv_cache, block_table, cache_seqlens, cu_seqlens_q)
    ready = _OPERATION.ready(options, inputs, scratch=buffer, stream=stream)
    ready.run(_OPERATION.run, c)
    return Plan(c, address, ready.scratch, (*_shapes(ready), causal, batch_invariant, num_splits))


@eager
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
    """Bytes of `buffer` that `plan_decode` needs: from shapes, flags and device, never from lengths.

    Arguments are those of `plan_decode`. Raises what it raises.

    >>> buffer = numpy.empty(flashmla.plan_decode_size(q, kv_cache, block_table, cache_seqlens), "uint8")
    >>> plan = flashmla.plan_decode(q, kv_cache, block_table, cache_seqlens, buffer=buffer)
    """
    options = _options(causal, batch_invariant, max_seqlen_q, num_splits)
    return _OPERATION.scratch_size(options, (q, kv_cache, block_table, cache_seqlens, cu_seqlens_q))
