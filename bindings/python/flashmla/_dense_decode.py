"""`dense_decode`: paged dense MLA decode attention.

Rules on shapes, dtypes, strides and values are the C library's; its sentence is the message of the exception.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeVar, overload

from flashmla._attention import described, lse_flags, set_scale
from flashmla._cdef import ffi
from flashmla._dynamo import eager
from flashmla._exchange import UNUSUAL
from flashmla._formats import Compute, KvFormat, compute_number, kv_format_number
from flashmla._operation import Operation, enqueued
from flashmla._options import Options, check_out_dtype, dtype_of_new, fresh, wanted
from flashmla._plan import Plan, check_plan, step_params
from flashmla._prepared import by_name, preparable
from flashmla._scalars import INT32, integer, remembered
from flashmla._tensor import OutDType, SupportsDLPack

TensorT = TypeVar("TensorT", bound=SupportsDLPack)
_KV_FP8: int = ffi.integer_const("FLASHMLA_KV_FP8")

_OPERATION = Operation(
    "dense_decode",
    ("q", "kv_cache", "block_table", "cache_seqlens"),
    optional=("cu_seqlens_q", "global_seqlens", "attn_sink", "descale_q", "descale_k", "q_rope"),
    outputs=("out", "lse"),
    described=described,
    scratch=("workspace", "flashmla_dense_decode_workspace_size"),
    plan="plan",
)


def _options(
    causal: Any,
    batch_invariant: Any,
    max_seqlen_q: Any,
    softmax_scale: Any,
    num_threads: Any,
    out_dtype: Any,
    lse_base2: Any,
    empty_lse: Any,
    cp_rank: Any,
    cp_world: Any,
    cp_interleave: Any,
    kv_format: Any,
    window: Any,
    compute: Any,
) -> Options:
    """The scalars of dense_decode."""
    params = step_params(_OPERATION, causal, batch_invariant, max_seqlen_q)
    params.flags |= lse_flags(lse_base2=lse_base2, empty_lse=empty_lse)
    set_scale(params, softmax_scale)
    params.num_threads = integer(num_threads, "num_threads", INT32)
    params.cp_rank = integer(cp_rank, "cp_rank", INT32)
    params.cp_world = integer(cp_world, "cp_world", INT32)
    params.cp_interleave = integer(cp_interleave, "cp_interleave", INT32)
    params.kv_format = kv_format_number(kv_format)
    params.window = integer(window, "window", INT32)
    params.compute = compute_number(compute)
    coded = params.kv_format == _KV_FP8  # then q may be codes, which out is not
    made = dtype_of_new(out_dtype) or ("bfloat16" if coded else None)
    return Options(_OPERATION, params, out_dtype=made)


_remembered = remembered(_options)


@overload
def dense_decode(
    q: TensorT,
    kv_cache: SupportsDLPack,
    block_table: SupportsDLPack,
    cache_seqlens: SupportsDLPack,
    *,
    softmax_scale: float | None = ...,
    causal: bool = ...,
    plan: Plan | None = ...,
    out: Any = ...,
    lse: Any = ...,
    workspace: Any = ...,
    stream: Any = ...,
    num_threads: int = ...,
    cu_seqlens_q: SupportsDLPack | None = ...,
    max_seqlen_q: int = ...,
    batch_invariant: bool = ...,
    out_dtype: OutDType = ...,
    lse_base2: bool = ...,
    empty_lse: float = ...,
    cp_rank: int = ...,
    cp_world: int = ...,
    cp_interleave: int = ...,
    global_seqlens: SupportsDLPack | None = ...,
    attn_sink: SupportsDLPack | None = ...,
    kv_format: KvFormat = ...,
    window: int = ...,
    descale_q: SupportsDLPack | None = ...,
    descale_k: SupportsDLPack | None = ...,
    compute: Compute = ...,
    q_rope: SupportsDLPack | None = ...,
    return_lse: Literal[True] = ...,
) -> tuple[TensorT, Any]: ...
@overload
def dense_decode(
    q: TensorT,
    kv_cache: SupportsDLPack,
    block_table: SupportsDLPack,
    cache_seqlens: SupportsDLPack,
    *,
    softmax_scale: float | None = ...,
    causal: bool = ...,
    plan: Plan | None = ...,
    out: Any = ...,
    lse: Any = ...,
    workspace: Any = ...,
    stream: Any = ...,
    num_threads: int = ...,
    cu_seqlens_q: SupportsDLPack | None = ...,
    max_seqlen_q: int = ...,
    batch_invariant: bool = ...,
    out_dtype: OutDType = ...,
    lse_base2: bool = ...,
    empty_lse: float = ...,
    cp_rank: int = ...,
    cp_world: int = ...,
    cp_interleave: int = ...,
    global_seqlens: SupportsDLPack | None = ...,
    attn_sink: SupportsDLPack | None = ...,
    kv_format: KvFormat = ...,
    window: int = ...,
    descale_q: SupportsDLPack | None = ...,
    descale_k: SupportsDLPack | None = ...,
    compute: Compute = ...,
    q_rope: SupportsDLPack | None = ...,
    return_lse: Literal[False],
) -> TensorT: ...
@eager
@preparable(_OPERATION, by_name(_options))
def dense_decode(
    q: TensorT,
    kv_cache: SupportsDLPack,
    block_table: SupportsDLPack,
    cache_seqlens: SupportsDLPack,
    *,
    softmax_scale: float | None = None,
    causal: bool = False,
    plan: Plan | None = None,
    out: Any = None,
    lse: Any = None,
    workspace: Any = None,
    stream: Any = None,
    num_threads: int = 0,
    cu_seqlens_q: SupportsDLPack | None = None,
    max_seqlen_q: int = 0,
    batch_invariant: bool = False,
    out_dtype: OutDType = None,
    lse_base2: bool = False,
    empty_lse: float = math.inf,
    cp_rank: int = 0,
    cp_world: int = 0,
    cp_interleave: int = 0,
    global_seqlens: SupportsDLPack | None = None,
    attn_sink: SupportsDLPack | None = None,
    kv_format: KvFormat = "bf16",
    window: int = 0,
    descale_q: SupportsDLPack | None = None,
    descale_k: SupportsDLPack | None = None,
    compute: Compute = "default",
    q_rope: SupportsDLPack | None = None,
    return_lse: bool = True,
) -> Any:
    """Paged dense MLA decode attention of `q` over `kv_cache`. Returns `(out, lse)`, or `out`.

    q                (batch, s_q, h_q, d_qk) bfloat16 or float16, on the CPU also float32; with cu_seqlens_q
                     (total_q, h_q, d_qk). d_qk is 576, 512, 320, 288 or 160, on the CPU also 1088
    kv_cache         (num_blocks, page_size, h_kv, d_qk), dtype of q; any page_size
    block_table      (batch, max_blocks) int32: page numbers of each request
    cache_seqlens    (batch,) int32: tokens of each request
    softmax_scale    None: d_qk ** -0.5
    causal           query token s sees the first L - (s_q - 1 - s) of L tokens
    plan             from `plan_decode`; None: the call schedules itself
    out, lse         written if given; else made by q's framework on q's device. out has q's shape with d_v last (512
                     for d_qk 576 and 512, 256 for 320 and 288, 128 for 160, 1024 for 1088), lse is (batch, h_q, s_q) or
                     (h_q, total_q) float32: the log-sum-exp. A row that attends to nothing is out 0, lse empty_lse
    workspace        contiguous scratch of `dense_decode_workspace_size` bytes on q's device; None: made for the call
    stream           CUDA stream, an integer or a stream object; None: the current one of q's framework
    num_threads      CPU threads; 0: FLASHMLA_NUM_THREADS, else the affinity mask
    cu_seqlens_q     (batch + 1,) int32: request i has the query tokens from cu_seqlens_q[i] up to cu_seqlens_q[i + 1]
    max_seqlen_q     most query tokens of a request; goes with cu_seqlens_q
    batch_invariant  the bits of a query token's row do not depend on the requests and query tokens beside it; a plan
                     must be made with it too
    out_dtype        dtype of an `out` that is made: None: q's; "float32", by name or as a framework's dtype
    lse_base2        lse is base 2 instead of natural
    empty_lse        inf or -inf
    return_lse       False: `out` alone is returned, and no lse is made
    cp_rank, cp_world, cp_interleave, global_seqlens
                     context parallelism: the cache is shard cp_rank of cp_world, tokens dealt in turns of
                     cp_interleave; cache_seqlens counts the shard's tokens, global_seqlens (batch,) int32 all shards'
    attn_sink        (h_q,) float32: a logit of each head that takes part in the softmax and has no value: out is
                     multiplied by 1 / (1 + exp(attn_sink - lse)), lse is without it
    kv_format        of kv_cache: "bf16", that above; also "v32", "v32_nope", "model1", "v41" and "fp8" as `append_kv`
                     writes them; with bfloat16 q: what is attended is what `dequantize_kv` gives. With "fp8" q may be
                     float8_e4m3fn, too (or uint8, its bytes), and out is bfloat16 unless given
    descale_q, descale_k
                     (1,) float32, with "fp8": what q, where it is codes, and kv_cache are multiplied with; None: 1.
                     Nothing is rounded: they are applied to sums
    compute          "fp8", with kv_format "fp8", permits products of 8-bit codes on tensor cores, which round weights
                     to 4 significant bits and sums to about 14. Done on a GPU where q is codes, d_v is 256 or 512, in
                     pages of a multiple of 64 tokens; else as by default
    q_rope           (batch, s_q, h_q, d_qk - d_v) or (total_q, h_q, d_qk - d_v), dtype of q: the columns of q from d_v
                     on, its RoPE part, with strides of its own; q then has the first d_v columns alone. Nothing is
                     copied to join them
    window           each query token attends the last `window` tokens of those that it sees; 0: all

    GPU work is enqueued on `stream` and not waited for, except with JAX, whose arrays must hold their result when seen.

    Raises `InvalidArgumentError` for a call that is wrong, `UnsupportedError` for one that this library, device or kind
    of tensor cannot do, `DeviceError` if the machine fails, and TypeError for what is no tensor or no number.

    >>> out, lse = flashmla.dense_decode(q, kv_cache, block_table, cache_seqlens, causal=True)
    >>> out.shape, lse.shape
    ((2, 1, 16, 512), (2, 16, 1))
    >>> out = flashmla.dense_decode(q, kv_cache, block_table, cache_seqlens, out_dtype="float32", return_lse=False)
    """
    dtype = None
    if out_dtype is not None:
        dtype = dtype_of_new(out_dtype)
        check_out_dtype(out, dtype)
    values = (
        *(causal, batch_invariant, max_seqlen_q, softmax_scale, num_threads, dtype, lse_base2, empty_lse),
        *(cp_rank, cp_world, cp_interleave, kv_format, window, compute),
    )
    try:
        options = _remembered(*values)
    except TypeError:
        options = None
    if options is None:
        options = _options(*values)
    if plan is not None:
        check_plan(plan)

    outputs = (out, lse) if return_lse is True else wanted(out, lse, return_lse=return_lse)
    fast, failed = options.fast[type(q)] if stream is None else None, None
    if fast is not None:
        made = outputs if out is not None and lse is not None else fresh(fast, q, outputs)
        if made is not None:
            own_out, own_lse = made if len(made) > 1 else (*made, None)
            address = None if plan is None else plan.address
            try:
                status = fast.call(
                    q, kv_cache, block_table, cache_seqlens, cu_seqlens_q, global_seqlens, attn_sink, descale_q,
                    descale_k, q_rope, own_out, own_lse, workspace, address,
                )  # fmt: skip
            except Exception:  # noqa: BLE001 - whatever the tensors' framework said: the long way says it better
                status = UNUSUAL
            if status == 0:
                return (own_out, own_lse) if return_lse else own_out
            failed = enqueued(status)

    optional = (cu_seqlens_q, global_seqlens, attn_sink, descale_q, descale_k, q_rope)
    inputs = (q, kv_cache, block_table, cache_seqlens, *optional)
    found = _OPERATION.the_long_way(
        options, inputs, outputs, scratch=workspace, plan=plan, stream=stream, failed=failed
    )
    return found if return_lse else found[0]


@eager
def dense_decode_workspace_size(
    q: SupportsDLPack,
    kv_cache: SupportsDLPack,
    block_table: SupportsDLPack,
    cache_seqlens: SupportsDLPack,
    *,
    causal: bool = False,
    plan: Plan | None = None,
    cu_seqlens_q: SupportsDLPack | None = None,
    max_seqlen_q: int = 0,
    batch_invariant: bool = False,
    kv_format: KvFormat = "bf16",
    window: int = 0,
    q_rope: SupportsDLPack | None = None,
) -> int:
    """Bytes of `workspace` that `dense_decode` needs: from shapes, flags and device, never from lengths.

    Arguments: those of `dense_decode` that the size depends on. Raises what it raises.

    >>> size = flashmla.dense_decode_workspace_size(q, kv_cache, block_table, cache_seqlens)
    >>> workspace = numpy.empty(size, "uint8")
    >>> out, lse = flashmla.dense_decode(q, kv_cache, block_table, cache_seqlens, workspace=workspace)
    """
    options = _options(
        causal, batch_invariant, max_seqlen_q, None, 0, None, False, math.inf, 0, 0, 0, kv_format, window, "default"
    )
    inputs = (q, kv_cache, block_table, cache_seqlens, cu_seqlens_q, None, None, None, None, q_rope)
    if plan is not None:
        check_plan(plan)
    return _OPERATION.scratch_size(options, inputs, plan and plan.c)
