"""`plan_sparse_decode`: the schedule that the layers of one step of sparse decode share."""

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


def _options(batch_invariant: Any, max_seqlen_q: Any, num_splits: Any, kv_format: Any) -> Options:
    """The scalars of plan_sparse_decode."""
    params = step_params(_OPERATION, False, batch_invariant, max_seqlen_q)
    params.num_splits = integer(num_splits, "num_splits", INT32)
    params.kv_format = kv_format_number(kv_format)
    return Options(_OPERATION, params)


_OPERATION = Operation(
    "plan_sparse_decode",
    ("q", "indices"),
    optional=("topk_length", "extra_indices", "extra_topk_length", "cu_seqlens_q", "q_rope"),
    scratch=("buffer", "flashmla_plan_sparse_decode_size"),
    makes_plan=True,
    options=_options,
)


def _unmade(ready: Ready, arguments: dict[str, Any]) -> Plan:
    """The plan that a prepared call fills when it runs."""
    return unmade_plan(_OPERATION, ready, {name: arguments[name] for name in ("batch_invariant", "num_splits")})


@eager
@preparable(_OPERATION, result=_unmade)
def plan_sparse_decode(
    q: SupportsDLPack,
    indices: SupportsDLPack,
    *,
    topk_length: SupportsDLPack | None = None,
    extra_indices: SupportsDLPack | None = None,
    extra_topk_length: SupportsDLPack | None = None,
    num_splits: int = 0,
    batch_invariant: bool = False,
    cu_seqlens_q: SupportsDLPack | None = None,
    max_seqlen_q: int = 0,
    kv_format: KvFormat = "bf16",
    q_rope: SupportsDLPack | None = None,
    buffer: Any = None,
    stream: Any = None,
) -> Plan:
    """Makes the schedule that all `sparse_decode` calls with these arguments' shapes share; only the lengths are read.

    The caches are no part of it, nor are the indices themselves: layers that select other tokens share it.

    num_splits       0: chosen for balance; n: the indices of each query token are cut into n parts, or into their units
                     of 64 if those are fewer. With batch_invariant 0 is 1 on a GPU, and bits follow from it; the CPU
                     does not look at it then
    batch_invariant  as in `sparse_decode`
    cu_seqlens_q     as in `sparse_decode`; read too
    max_seqlen_q     as in `sparse_decode`
    q_rope           as in `plan_decode`
    kv_format        as in `sparse_decode`; the plan serves calls on caches of any format, and may be slower where one
                     quantises and the other does not
    buffer           contiguous memory of `plan_sparse_decode_size` bytes on q's device, kept alive by the plan; None:
                     made by q's framework

    Raises what `sparse_decode` raises.

    >>> indices = numpy.array([[[128, 129, 191]], [[0, 1, -1]]])
    >>> plan = flashmla.plan_sparse_decode(q, indices)
    >>> for layer in range(2):
    ...     out, lse = flashmla.sparse_decode(q, kv_cache, indices, plan=plan)
    """
    scalars = batch_invariant, max_seqlen_q, num_splits, kv_format
    inputs = (q, indices, topk_length, extra_indices, extra_topk_length, cu_seqlens_q, q_rope)
    facts = {"batch_invariant": batch_invariant, "num_splits": num_splits}
    return make_plan(_OPERATION, scalars, inputs, facts, buffer=buffer, stream=stream)


@eager
def plan_sparse_decode_size(
    q: SupportsDLPack,
    indices: SupportsDLPack,
    *,
    topk_length: SupportsDLPack | None = None,
    extra_indices: SupportsDLPack | None = None,
    extra_topk_length: SupportsDLPack | None = None,
    num_splits: int = 0,
    batch_invariant: bool = False,
    cu_seqlens_q: SupportsDLPack | None = None,
    max_seqlen_q: int = 0,
    kv_format: KvFormat = "bf16",
    q_rope: SupportsDLPack | None = None,
) -> int:
    """Bytes of `buffer` that `plan_sparse_decode` needs: from shapes, flags and device, never from lengths.

    Arguments are those of `plan_sparse_decode`. Raises what it raises.

    >>> indices = numpy.array([[[128, 129, 191]], [[0, 1, -1]]])
    >>> buffer = numpy.empty(flashmla.plan_sparse_decode_size(q, indices), "uint8")
    >>> plan = flashmla.plan_sparse_decode(q, indices, buffer=buffer)
    """
    options = _options(batch_invariant, max_seqlen_q, num_splits, kv_format)
    inputs = (q, indices, topk_length, extra_indices, extra_topk_length, cu_seqlens_q, q_rope)
    return _OPERATION.scratch_size(options, inputs)
