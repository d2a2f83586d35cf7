"""`sparse_decode`: MLA decode attention over the tokens of the cache that each query token names.

Rules on shapes, dtypes, strides and values are the C library's; its sentence is the message of the exception.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeVar, overload

from flashmla._attention import described, lse_flags, set_scale
from flashmla._dynamo import eager
from flashmla._formats import KvFormat, kv_format_number
from flashmla._operation import Operation
from flashmla._options import Options, dtype_of_new, wanted
from flashmla._plan import Plan, check_plan, step_params
from flashmla._prepared import by_name, preparable
from flashmla._scalars import INT32, integer
from flashmla._tensor import OutDType, SupportsDLPack

TensorT = TypeVar("TensorT", bound=SupportsDLPack)


def _options(
    kv_format: Any,
    extra_kv_format: Any,
    batch_invariant: Any,
    max_seqlen_q: Any,
    softmax_scale: Any,
    num_threads: Any,
    out_dtype: Any,
    lse_base2: Any,
    empty_lse: Any,
) -> Options:
    """The scalars of sparse_decode."""
    params = step_params(_OPERATION, False, batch_invariant, max_seqlen_q)
    params.kv_format = kv_format_number(kv_format)
    if extra_kv_format is not None:
        params.extra_kv_format = kv_format_number(extra_kv_format, "extra_kv_format")
    params.flags |= lse_flags(lse_base2=lse_base2, empty_lse=empty_lse)
    set_scale(params, softmax_scale)
    params.num_threads = integer(num_threads, "num_threads", INT32)
    return Options(_OPERATION, params, out_dtype=dtype_of_new(out_dtype))


_OPERATION = Operation(
    "sparse_decode",
    ("q", "kv_cache", "indices"),
    optional=(
        *("topk_length", "attn_sink", "extra_kv_cache", "extra_indices", "extra_topk_length"),
        *("cu_seqlens_q", "descale_k", "extra_descale_k", "q_rope"),
    ),
    outputs=("out", "lse"),
    described=described,
    scratch=("workspace", "flashmla_sparse_decode_workspace_size"),
    plan="plan",
    options=_options,
)


def _extra_format(kv_format: Any, extra_kv_cache: Any, extra_kv_format: Any) -> Any:
    """The format of the extra cache: that of the main one unless it is said; None where there is none."""
    return kv_format if extra_kv_format is None and extra_kv_cache is not None else extra_kv_format


def _prepared_options(arguments: dict[str, Any]) -> Options:
    """The scalars of a call to be prepared."""
    extra = _extra_format(*(arguments[name] for name in ("kv_format", "extra_kv_cache", "extra_kv_format")))
    return by_name(_options)(arguments | {"extra_kv_format": extra})


@overload
def sparse_decode(
    q: TensorT,
    kv_cache: SupportsDLPack,
    indices: SupportsDLPack,
    *,
    kv_format: KvFormat = ...,
    topk_length: SupportsDLPack | None = ...,
    attn_sink: SupportsDLPack | None = ...,
    extra_kv_cache: SupportsDLPack | None = ...,
    extra_indices: SupportsDLPack | None = ...,
    extra_topk_length: SupportsDLPack | None = ...,
    extra_kv_format: KvFormat | None = ...,
    descale_k: SupportsDLPack | None = ...,
    extra_descale_k: SupportsDLPack | None = ...,
    cu_seqlens_q: SupportsDLPack | None = ...,
    max_seqlen_q: int = ...,
    softmax_scale: float | None = ...,
    plan: Plan | None = ...,
    out: Any = ...,
    lse: Any = ...,
    workspace: Any = ...,
    stream: Any = ...,
    num_threads: int = ...,
    batch_invariant: bool = ...,
    out_dtype: OutDType = ...,
    lse_base2: bool = ...,
    empty_lse: float = ...,
    q_rope: SupportsDLPack | None = ...,
    return_lse: Literal[True] = ...,
) -> tuple[TensorT, Any]: ...
@overload
def sparse_decode(
    q: TensorT,
    kv_cache: SupportsDLPack,
    indices: SupportsDLPack,
    *,
    kv_format: KvFormat = ...,
    topk_length: SupportsDLPack | None = ...,
    attn_sink: SupportsDLPack | None = ...,
    extra_kv_cache: SupportsDLPack | None = ...,
    extra_indices: SupportsDLPack | None = ...,
    extra_topk_length: SupportsDLPack | None = ...,
    extra_kv_format: KvFormat | None = ...,
    descale_k: SupportsDLPack | None = ...,
    extra_descale_k: SupportsDLPack | None = ...,
    cu_seqlens_q: SupportsDLPack | None = ...,
    max_seqlen_q: int = ...,
    softmax_scale: float | None = ...,
    plan: Plan | None = ...,
    out: Any = ...,
    lse: Any = ...,
    workspace: Any = ...,
    stream: Any = ...,
    num_threads: int = ...,
    batch_invariant: bool = ...,
    out_dtype: OutDType = ...,
    lse_base2: bool = ...,
    empty_lse: float = ...,
    q_rope: SupportsDLPack | None = ...,
    return_lse: Literal[False],
) -> TensorT: ...
@eager
@preparable(_OPERATION, _prepared_options)
def sparse_decode(
    q: TensorT,
    kv_cache: SupportsDLPack,
    indices: SupportsDLPack,
    *,
    kv_format: KvFormat = "bf16",
    topk_length: SupportsDLPack | None = None,
    attn_sink: SupportsDLPack | None = None,
    extra_kv_cache: SupportsDLPack | None = None,
    extra_indices: SupportsDLPack | None = None,
    extra_topk_length: SupportsDLPack | None = None,
    extra_kv_format: KvFormat | None = None,
    descale_k: SupportsDLPack | None = None,
    extra_descale_k: SupportsDLPack | None = None,
    cu_seqlens_q: SupportsDLPack | None = None,
    max_seqlen_q: int = 0,
    softmax_scale: float | None = None,
    plan: Plan | None = None,
    out: Any = None,
    lse: Any = None,
    workspace: Any = None,
    stream: Any = None,
    num_threads: int = 0,
    batch_invariant: bool = False,
    out_dtype: OutDType = None,
    lse_base2: bool = False,
    empty_lse: float = math.inf,
    q_rope: SupportsDLPack | None = None,
    return_lse: bool = True,
) -> Any:
    """MLA decode attention of each query token over the tokens that it names. Returns `(out, lse)`, or `out`.

    q                (batch, s_q, h_q, d_qk) bfloat16, h_q at most 128, on the CPU also float16 and float32; with
                     cu_seqlens_q (total_q, h_q, d_qk). d_qk is 576 or 512, on the CPU any of `dense_decode`
    kv_cache         (num_blocks, page_size, 1, d_qk), dtype of q, or bytes in a format that quantises: see `append_kv`
    indices          (batch, s_q, topk) or (total_q, topk) int32 or int64: slots of kv_cache, slot s being row
                     s % page_size of page s // page_size. One outside the cache, such as -1, attends to nothing; one
                     that stands there twice counts twice. There is no other mask
    kv_format        as in `append_kv`; what is quantised is read as bfloat16, and so is q
    topk_length      (batch,) int32: only so many of the indices of each query token count; None: all
    attn_sink        (h_q,) float32: a logit of each head that takes part in the softmax and has no value: out is
                     multiplied by 1 / (1 + exp(attn_sink - lse)), lse is without it
    extra_kv_cache, extra_indices, extra_topk_length, extra_kv_format
                     a second selection, from a cache with pages of its own; extra_kv_format None: that of kv_cache
    descale_k, extra_descale_k
                     (1,) float32, of a cache in format "fp8": as in `append_kv`; on the CPU
    plan             from `plan_sparse_decode`; None: the call schedules itself
    batch_invariant  as in `dense_decode`
    out, lse         as in `dense_decode`. A row that attends to nothing is out 0, lse empty_lse, whatever its sink
    workspace        contiguous scratch of `sparse_decode_workspace_size` bytes on q's device; None: made for the call
    cu_seqlens_q, max_seqlen_q, softmax_scale, stream, num_threads, out_dtype, lse_base2, empty_lse, q_rope, return_lse
                     as in `dense_decode`

    Values of indices, topk_length and cu_seqlens_q may be anything: nothing outside the cache is read. Raises what
    `dense_decode` raises.

    >>> indices = numpy.array([[[128, 129, 191]], [[0, 1, -1]]])
    >>> out, lse = flashmla.sparse_decode(q, kv_cache, indices)
    >>> out.shape, lse.shape
    ((2, 1, 16, 512), (2, 16, 1))
    """
    dtype = None if out_dtype is None else dtype_of_new(out_dtype)
    scalars = (
        *(kv_format, _extra_format(kv_format, extra_kv_cache, extra_kv_format), batch_invariant, max_seqlen_q),
        *(softmax_scale, num_threads, dtype, lse_base2, empty_lse),
    )
    inputs = (
        *(q, kv_cache, indices, topk_length, attn_sink, extra_kv_cache, extra_indices, extra_topk_length),
        *(cu_seqlens_q, descale_k, extra_descale_k, q_rope),
    )
    if plan is not None:
        check_plan(plan)
    outputs = (out, lse) if return_lse is True else wanted(out, lse, return_lse=return_lse)
    found = _OPERATION.call(scalars, inputs, outputs, stream=stream, objects=inputs, scratch=workspace, plan=plan)
    return found if return_lse else found[0]


@eager
def sparse_decode_workspace_size(
    q: SupportsDLPack,
    kv_cache: SupportsDLPack,
    indices: SupportsDLPack,
    *,
    kv_format: KvFormat = "bf16",
    topk_length: SupportsDLPack | None = None,
    attn_sink: SupportsDLPack | None = None,
    extra_kv_cache: SupportsDLPack | None = None,
    extra_indices: SupportsDLPack | None = None,
    extra_topk_length: SupportsDLPack | None = None,
    extra_kv_format: KvFormat | None = None,
    cu_seqlens_q: SupportsDLPack | None = None,
    max_seqlen_q: int = 0,
    batch_invariant: bool = False,
    plan: Plan | None = None,
    q_rope: SupportsDLPack | None = None,
) -> int:
    """Bytes of `workspace` that `sparse_decode` needs: from shapes, flags and device, never from lengths.

    Arguments: those of `sparse_decode` that the size depends on. Raises what it raises.

    >>> indices = numpy.array([[[128, 129, 191]], [[0, 1, -1]]])
    >>> workspace = numpy.empty(flashmla.sparse_decode_workspace_size(q, kv_cache, indices), "uint8")
    >>> out, lse = flashmla.sparse_decode(q, kv_cache, indices, workspace=workspace)
    """
    extra = _extra_format(kv_format, extra_kv_cache, extra_kv_format)
    options = _options(kv_format, extra, batch_invariant, max_seqlen_q, None, 0, None, False, math.inf)
    inputs = (
        *(q, kv_cache, indices, topk_length, attn_sink, extra_kv_cache, extra_indices, extra_topk_length),
        *(cu_seqlens_q, None, None, q_rope),
    )
    if plan is not None:
        check_plan(plan)
    return _OPERATION.scratch_size(options, inputs, plan and plan.c)
