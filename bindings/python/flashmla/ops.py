"""The operations: `dense_decode` and the plan that the layers of one decode step share.

Rules on shapes, dtypes, strides and values are the C library's; its sentence is the message of the exception.
"""

from __future__ import annotations

from typing import Any, TypeVar

from flashmla._cdef import ffi
from flashmla._frameworks import framework_of, output_of, stream_number, tensor_of
from flashmla._library import lib
from flashmla._scalars import INT32, flag, integer, real
from flashmla._tensor import CUDA, SupportsDLPack, Tensor, described, memory
from flashmla.errors import check

TensorT = TypeVar("TensorT", bound=SupportsDLPack)

D_V = 512
"""Components of the output: the latent part of a cache row (DeepSeek-V2, arXiv 2405.04434, section 2.1)."""

_CAUSAL: int = ffi.integer_const("FLASHMLA_CAUSAL")
_DEFAULT_SCALE: int = ffi.integer_const("FLASHMLA_DEFAULT_SCALE")
_FLOAT32: tuple[int, int] = ffi.integer_const("kDLFloat"), 32
_POINTER = ffi.typeof("void *")
_BYTE_COUNT = ffi.typeof("uint64_t *")
_PLAN = ffi.typeof("flashmla_plan *")
_DECODE_PARAMS = ffi.typeof("flashmla_dense_decode_params *")
_DECODE_SIZE = ffi.sizeof(_DECODE_PARAMS.item)
_PLAN_PARAMS = ffi.typeof("flashmla_plan_decode_params *")
_PLAN_SIZE = ffi.sizeof(_PLAN_PARAMS.item)


class Plan:
    """The split-KV schedule of one decode step, from `plan_decode`. Opaque; keeps its buffer alive.

    It serves every call with the shapes, dtype, flags and device it was made for, from any thread. Lengths may change
    afterwards: results stay right, only the balance suffers.
    """

    __slots__ = ("_buffer", "_c", "_text")

    def __init__(self, c: Any, buffer: Any, text: str) -> None:
        self._c = c
        self._buffer = buffer
        self._text = text

    def __repr__(self) -> str:
        return f"<flashmla.Plan {self._text}>"


class _Inputs:
    """The four input tensors of a call as DLTensors, q's framework and the stream they are ready on."""

    __slots__ = ("block_table", "cache_seqlens", "framework", "kv_cache", "own", "q", "stream")

    def __init__(self, q: Any, kv_cache: Any, block_table: Any, cache_seqlens: Any, stream: Any) -> None:
        self.framework = framework_of(q)
        current = self.framework.current_stream(q) if stream is None else None
        self.own = None if current is None else self.framework  # whose current stream it is
        # CUDA's legacy default stream, 0, where nobody named one: exporters make it wait for their work.
        self.stream = number = (0 if stream is None else stream_number(stream)) if current is None else current
        self.q = tensor_of(q, "q", number, self.own)
        self.kv_cache = tensor_of(kv_cache, "kv_cache", number, self.own)
        self.block_table = tensor_of(block_table, "block_table", number, self.own)
        self.cache_seqlens = tensor_of(cache_seqlens, "cache_seqlens", number, self.own)

    def fill(self, params: Any, size: int, flags: int) -> None:
        """Sets the fields that both params structs begin with."""
        params.struct_size = size
        params.flags = flags
        params.q = self.q.c
        params.kv_cache = self.kv_cache.c
        params.block_table = self.block_table.c
        params.cache_seqlens = self.cache_seqlens.c
        params.stream = ffi.cast(_POINTER, self.stream)

    def output(self, given: Any, argument: str) -> Tensor:
        """A caller's tensor to write."""
        return output_of(given, argument, self.stream, self.own)

    def empty(self, q: Any, shape: tuple[int, ...], dtype: str | None) -> tuple[Any, Any]:
        """A new tensor of q's framework and its address."""
        made = self.framework.empty(q, shape, dtype, self.stream if self.own is None else None)
        return made, ffi.cast(_POINTER, self.framework.address(made))

    def scratch(self, q: Any, given: Any, size: int, argument: str) -> tuple[Any, Any, int]:
        """A caller's buffer, or a new one of `size` bytes: (what keeps it alive, address, bytes)."""
        if given is not None:
            tensor = self.output(given, argument)
            return tensor, *memory(tensor, argument, self.q)
        if size == 0:
            return None, ffi.NULL, 0
        return *self.empty(q, (size,), "uint8"), size

    def finish(self) -> None:
        """Waits, for a framework that must not see unfinished results."""
        device_type, device_id = self.q.device
        if device_type == CUDA:
            self.framework.finish(device_id, self.stream)


def _flags(*, causal: bool) -> int:
    return _CAUSAL if flag(causal, "causal") else 0


def _decode_params(inputs: _Inputs, softmax_scale: float | None, plan: Plan | None, *, causal: bool) -> Any:
    params = ffi.new(_DECODE_PARAMS)
    inputs.fill(params, _DECODE_SIZE, _flags(causal=causal) | (_DEFAULT_SCALE if softmax_scale is None else 0))
    if softmax_scale is not None:
        params.softmax_scale = real(softmax_scale, "softmax_scale")
    if plan is not None:
        if not isinstance(plan, Plan):
            raise TypeError(f"plan is a {type(plan).__qualname__}: what plan_decode returned is needed")
        params.plan = plan._c  # noqa: SLF001 - opaque to callers, not to this module
    return params


def _plan_params(inputs: _Inputs, num_splits: int, *, causal: bool) -> Any:
    params = ffi.new(_PLAN_PARAMS)
    inputs.fill(params, _PLAN_SIZE, _flags(causal=causal))
    params.num_splits = integer(num_splits, "num_splits", INT32)
    return params


def _output_shapes(q: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of out and lse. For a q of wrong rank they are nonsense, and C refuses q first."""
    batch, s_q, h_q = (*q.shape, 1, 1, 1)[:3]
    return (batch, s_q, h_q, D_V), (batch, h_q, s_q)


def _query(size_query: Any, params: Any) -> int:
    size = ffi.new(_BYTE_COUNT)
    check(lib, size_query(params, size))
    return int(size[0])


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
) -> tuple[TensorT, Any]:
    """Paged dense MLA decode attention of `q` over `kv_cache`. Returns `(out, lse)`.

    q              (batch, s_q, h_q, 576) bfloat16 or float16, on the CPU also float32
    kv_cache       (num_blocks, page_size, h_kv, 576), dtype of q; pages of 64 on a GPU, any on the CPU
    block_table    (batch, max_blocks) int32: page numbers of each request
    cache_seqlens  (batch,) int32: tokens of each request
    softmax_scale  None: 576 ** -0.5
    causal         query token s sees the first L - (s_q - 1 - s) of L tokens
    plan           from `plan_decode`; None: the call schedules itself
    out, lse       written if given: (batch, s_q, h_q, 512), dtype of q, and (batch, h_q, s_q) float32; else made by q's
                   framework on q's device. lse is the natural log-sum-exp; a row that attends to nothing is
                   out 0, lse +inf
    workspace      contiguous scratch of `dense_decode_workspace_size` bytes on q's device; None: made for the call
    stream         CUDA stream, an integer or a stream object; None: the current one of q's framework
    num_threads    CPU threads; 0: FLASHMLA_NUM_THREADS, else the affinity mask

    GPU work is enqueued on `stream` and not waited for, except with JAX, whose arrays must hold their result when seen.
    """
    inputs = _Inputs(q, kv_cache, block_table, cache_seqlens, stream)
    params = _decode_params(inputs, softmax_scale, plan, causal=causal)
    params.num_threads = integer(num_threads, "num_threads", INT32)
    out_shape, lse_shape = _output_shapes(inputs.q)
    out_tensor = described(inputs.q, out_shape) if out is None else inputs.output(out, "out")
    lse_tensor = described(inputs.q, lse_shape, _FLOAT32) if lse is None else inputs.output(lse, "lse")
    params.out, params.lse = out_tensor.c, lse_tensor.c

    # The size query refuses wrong ranks, extents, dtypes and devices before outputs of such shapes are made. Strides,
    # addresses and scalars are looked at by the call itself.
    size = _query(lib.flashmla_dense_decode_workspace_size, params)
    if out is None:
        out, out_tensor.c.data = inputs.empty(q, out_shape, None)
    if lse is None:
        lse, lse_tensor.c.data = inputs.empty(q, lse_shape, "float32")
    scratch, params.workspace, params.workspace_size = inputs.scratch(q, workspace, size, "workspace")
    check(lib, lib.flashmla_dense_decode(params))
    inputs.finish()
    del scratch  # lives until the work is enqueued; stream-ordered allocators keep it from later work until that ran
    return out, lse


def plan_decode(
    q: SupportsDLPack,
    kv_cache: SupportsDLPack,
    block_table: SupportsDLPack,
    cache_seqlens: SupportsDLPack,
    *,
    causal: bool = False,
    num_splits: int = 0,
    buffer: Any = None,
    stream: Any = None,
) -> Plan:
    """Makes the schedule that all `dense_decode` calls with these arguments' shapes share; only the lengths are read.

    num_splits  0: chosen for balance; n: every request is cut into n parts
    buffer      contiguous memory of `plan_decode_size` bytes on q's device, kept alive by the plan; None: made by q's
                framework
    """
    inputs = _Inputs(q, kv_cache, block_table, cache_seqlens, stream)
    params = _plan_params(inputs, num_splits, causal=causal)
    size = _query(lib.flashmla_plan_decode_size, params)
    keep, params.buffer, params.buffer_size = inputs.scratch(q, buffer, size, "buffer")
    c = ffi.new(_PLAN)
    check(lib, lib.flashmla_plan_decode(params, c))
    inputs.finish()
    text = (
        f"q {inputs.q.shape}, kv_cache {inputs.kv_cache.shape}, causal={causal}, num_splits={num_splits}, {size} bytes"
    )
    return Plan(c, keep, text)


def dense_decode_workspace_size(
    q: SupportsDLPack,
    kv_cache: SupportsDLPack,
    block_table: SupportsDLPack,
    cache_seqlens: SupportsDLPack,
    *,
    causal: bool = False,
    plan: Plan | None = None,
) -> int:
    """Bytes of `workspace` that `dense_decode` needs: from shapes, flags and device, never from lengths."""
    inputs = _Inputs(q, kv_cache, block_table, cache_seqlens, None)
    params = _decode_params(inputs, None, plan, causal=causal)
    out_shape, lse_shape = _output_shapes(inputs.q)
    out, lse = described(inputs.q, out_shape), described(inputs.q, lse_shape, _FLOAT32)
    params.out, params.lse = out.c, lse.c
    return _query(lib.flashmla_dense_decode_workspace_size, params)


def plan_decode_size(
    q: SupportsDLPack,
    kv_cache: SupportsDLPack,
    block_table: SupportsDLPack,
    cache_seqlens: SupportsDLPack,
    *,
    causal: bool = False,
    num_splits: int = 0,
) -> int:
    """Bytes of `buffer` that `plan_decode` needs: from shapes, flags and device, never from lengths."""
    inputs = _Inputs(q, kv_cache, block_table, cache_seqlens, None)
    return _query(lib.flashmla_plan_decode_size, _plan_params(inputs, num_splits, causal=causal))
