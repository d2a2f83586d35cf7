"""`plan_decode`: the schedule that the layers of one decode step share."""

from __future__ import annotations

from typing import Any

from flashmla._dynamo import eager
from flashmla._formats import KvFormat, kv_format_number
from flashmla._operation import Operation, Ready
from flashmla._options import Options
from flashmla._plan import Plan, make_plan, step_params, unmade_plan
from flashmla._prepared import preparable
from flashmla._scalars import INT32, integer
from flashmla._tensor import SupportsDLPack


def _options(
    causal: Any, batch_invariant: Any, max_seqlen_q: Any, num_splits: Any, kv_format: Any, window: Any
) -> Options:
    """The scalars of plan_decode."""
    params = step_params(_OPERATION, causal, batch_invariant, max_seqlen_q)
    params.num_splits = integer(num_splits, "num_splits", INT32)
    params.kv_format = kv_format_number(kv_format)
    params.window = integer(window, "window", INT32)
    return Options(_OPERATION, params)


_OPERATION = Operation(
    "plan_decode",
    ("q", "kv_cache", "block_table", "cache_seqlens"),
    optional=("cu_seqlens_q", "q_rope"),
    scratch=("buffer", "flashmla_plan_decode_size"),
    makes_plan=True,
    options=_options,
)


def _unmade(ready: Ready, arguments: dict[str, Any]) -> Plan:
    """The plan that a prepared call fills when it runs."""
    return unmade_plan(
        _OPERATION, ready, {name: arguments[name] for name in ("causal", "batch_invariant", "num_splits")}
    )


@eager
@preparable(_OPERATION, result=_unmade)
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
    kv_format: KvFormat = "bf16",
    window: int = 0,
    q_rope: SupportsDLPack | None = None,
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
    kv_format        as in `dense_decode`; the plan serves calls on caches of other formats that quantise, too
    window           as in `dense_decode`
    q_rope           as in `dense_decode`; a plan of q in two parts is that of q in one
    buffer           contiguous memory of `plan_decode_size` bytes on q's device, kept alive by the plan; None: made by
                     q's framework

    Raises what `dense_decode` raises.

    >>> plan = flashmla.plan_decode(q, kv_cache, block_table, cache_seqlens)
    >>> for layer in range(2):
    ...     out, lse = flashmla.dense_decode(q, kv_cache, block_table, cache_seqlens, plan=plan)
    """
    scalars = causal, batch_invariant, max_seqlen_q, num_splits, kv_format, window
    inputs = (q, kv_cache, block_table, cache_seqlens, cu_seqlens_q, q_rope)
    facts = {"causal": causal, "batch_invariant": batch_invariant, "num_splits": num_splits}
    return make_plan(_OPERATION, scalars, inputs, facts, buffer=buffer, stream=stream)


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
    kv_format: KvFormat = "bf16",
    window: int = 0,
    q_rope: SupportsDLPack | None = None,
) -> int:
    """Bytes of `buffer` that `plan_decode` needs: from shapes, flags and device, never from lengths.

    Arguments are those of `plan_decode`. Raises what it raises.

    >>> buffer = numpy.empty(flashmla.plan_decode_size(q, kv_cache, block_table, cache_seqlens), "uint8")
    >>> plan = flashmla.plan_decode(q, kv_cache, block_table, cache_seqlens, buffer=buffer)
    """
    options = _options(causal, batch_invariant, max_seqlen_q, num_splits, kv_format, window)
    return _OPERATION.scratch_size(options, (q, kv_cache, block_table, cache_seqlens, cu_seqlens_q, q_rope))
