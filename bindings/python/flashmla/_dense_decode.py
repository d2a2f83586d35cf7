"""`dense_decode`: paged dense MLA decode attention.

Rules on shapes, dtypes, strides and values are the C library's; its sentence is the message of the exception.
"""

from __future__ import annotations

import functools
import math
from typing import Any, TypeVar

from flashmla._call import dtype_of_new, lse_flags, lse_shape, params_type
from flashmla._cdef import ffi
from flashmla._library import lib
from flashmla._plan import Plan
from flashmla._scalars import INT32, integer, real
from flashmla._step import Step
from flashmla._tensor import SupportsDLPack, shape

TensorT = TypeVar("TensorT", bound=SupportsDLPack)

D_V = {576: 512, 512: 512, 320: 256}
"""d_v by d_qk, to make an output of the right shape. What geometries there are is C's rule: it refuses any other q."""

_DEFAULT_SCALE: int = ffi.integer_const("FLASHMLA_DEFAULT_SCALE")
_PARAMS = params_type("flashmla_dense_decode_params")


@functools.lru_cache(maxsize=1024)
def _output_shapes(q_shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of out and lse. For a q of wrong rank or d_qk they are nonsense, and C refuses q first."""
    out_shape = (*q_shape[:-1], D_V.get(q_shape[-1], 512)) if q_shape else (1,)
    return out_shape, lse_shape(out_shape)


def _set_plan(step: Step, plan: Plan | None) -> None:
    if plan is not None:
        if not isinstance(plan, Plan):
            raise TypeError(f"plan is a {type(plan).__qualname__}: what plan_decode returned is needed")
        step.params.plan = plan._c  # noqa: SLF001 - opaque to callers, not to this package


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
    out_dtype: str | None = None,
    lse_base2: bool = False,
    empty_lse: float = math.inf,
    cp_rank: int = 0,
    cp_world: int = 0,
    cp_interleave: int = 0,
    global_seqlens: SupportsDLPack | None = None,
) -> tuple[TensorT, Any]:
    """Paged dense MLA decode attention of `q` over `kv_cache`. Returns `(out, lse)`.

    q                (batch, s_q, h_q, d_qk) bfloat16 or float16, on the CPU also float32; with cu_seqlens_q
                     (total_q, h_q, d_qk). d_qk is 576, 512 or 320
    kv_cache         (num_blocks, page_size, h_kv, d_qk), dtype of q; page_size on a GPU a power of two up to 64 or a
                     multiple of 64, on the CPU any
    block_table      (batch, max_blocks) int32: page numbers of each request
    cache_seqlens    (batch,) int32: tokens of each request
    softmax_scale    None: d_qk ** -0.5
    causal           query token s sees the first L - (s_q - 1 - s) of L tokens
    plan             from `plan_decode`; None: the call schedules itself
    out, lse         written if given; else made by q's framework on q's device. out has q's shape with d_v (512, 512 or
                     256) last, lse is (batch, h_q, s_q) or (h_q, total_q) float32: the log-sum-exp. A row that attends
                     to nothing is out 0, lse empty_lse
    workspace        contiguous scratch of `dense_decode_workspace_size` bytes on q's device; None: made for the call
    stream           CUDA stream, an integer or a stream object; None: the current one of q's framework
    num_threads      CPU threads; 0: FLASHMLA_NUM_THREADS, else the affinity mask
    cu_seqlens_q     (batch + 1,) int32: request i has the query tokens from cu_seqlens_q[i] up to cu_seqlens_q[i + 1]
    max_seqlen_q     most query tokens of a request; goes with cu_seqlens_q
    batch_invariant  the bits of a request's result do not depend on the requests beside it; with a plan, it decides
    out_dtype        dtype of an `out` that is made: None: q's; "float32"
    lse_base2        lse is base 2 instead of natural
    empty_lse        inf or -inf
    cp_rank, cp_world, cp_interleave, global_seqlens
                     context parallelism: the cache is shard cp_rank of cp_world, tokens dealt in turns of
                     cp_interleave; cache_seqlens counts the shard's tokens, global_seqlens (batch,) int32 all shards'

    GPU work is enqueued on `stream` and not waited for, except with JAX, whose arrays must hold their result when seen.
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
    flags = lse_flags(lse_base2=lse_base2, empty_lse=empty_lse)
    if softmax_scale is None:
        flags |= _DEFAULT_SCALE
    else:
        params.softmax_scale = real(softmax_scale, "softmax_scale")
    params.flags |= flags
    params.num_threads = integer(num_threads, "num_threads", INT32)
    params.cp_rank = integer(cp_rank, "cp_rank", INT32)
    params.cp_world = integer(cp_world, "cp_world", INT32)
    params.cp_interleave = integer(cp_interleave, "cp_interleave", INT32)
    if global_seqlens is not None:
        params.global_seqlens = step.read(global_seqlens, "global_seqlens")
    _set_plan(step, plan)

    dtype = dtype_of_new(out, out_dtype)
    out_shape, lse_extents = _output_shapes(shape(params.q))
    params.out = step.describe(out_shape, dtype) if out is None else step.write(out, "out")
    params.lse = step.describe(lse_extents, "float32") if lse is None else step.write(lse, "lse")
    size = 0
    if out is None or lse is None or workspace is None:
        # The size query refuses wrong ranks, extents, dtypes and devices before outputs of such shapes are made.
        # Strides, addresses and scalars are looked at by the call itself.
        size = step.query(lib.flashmla_dense_decode_workspace_size)
    if out is None:
        out, params.out.data = step.make(out_shape, dtype)
    if lse is None:
        lse, params.lse.data = step.make(lse_extents, "float32")
    _, params.workspace, params.workspace_size = step.scratch(workspace, size, "workspace")
    step.run(lib.flashmla_dense_decode)
    return out, lse


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
) -> int:
    """Bytes of `workspace` that `dense_decode` needs: from shapes, flags and device, never from lengths."""
    step = Step(
        _PARAMS,
        (q, kv_cache, block_table, cache_seqlens),
        cu_seqlens_q,
        max_seqlen_q,
        None,
        causal=causal,
        batch_invariant=batch_invariant,
    )
    params = step.params
    params.flags |= _DEFAULT_SCALE
    _set_plan(step, plan)
    out_shape, lse_extents = _output_shapes(shape(params.q))
    params.out = step.describe(out_shape, None)
    params.lse = step.describe(lse_extents, "float32")
    return step.query(lib.flashmla_dense_decode_workspace_size)
