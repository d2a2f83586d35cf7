"""`dequantize_kv`: the tokens of a KV cache as rows, in the order of their slots.

Rules on shapes, dtypes, strides and values are the C library's; its sentence is the message of the exception.
"""

from __future__ import annotations

from typing import Any, TypeVar

from flashmla._dynamo import eager
from flashmla._formats import KvFormat, kv_format_number, row_made
from flashmla._framework import Described
from flashmla._operation import Operation
from flashmla._options import Options, dtype_of_new
from flashmla._prepared import preparable
from flashmla._scalars import INT32, integer
from flashmla._tensor import OutDType, SupportsDLPack

TensorT = TypeVar("TensorT", bound=SupportsDLPack)


def _described(kv_cache: tuple[int, ...], options: Options) -> tuple[Described, ...]:
    """out as it is made: all slots."""
    columns, dtype = row_made(kv_cache, options)
    slots = kv_cache[0] * kv_cache[1] if len(kv_cache) > 1 else 1
    return (((slots, columns), dtype),)


def _options(kv_format: Any, out_dtype: Any, num_threads: Any) -> Options:
    """The scalars of dequantize_kv."""
    params = _OPERATION.new_params()
    params.kv_format = kv_format_number(kv_format)
    params.num_threads = integer(num_threads, "num_threads", INT32)
    return Options(_OPERATION, params, out_dtype=dtype_of_new(out_dtype))


_OPERATION = Operation(
    "dequantize_kv", ("kv_cache",), optional=("descale_k",), outputs=("out",), described=_described, options=_options
)


@eager
@preparable(_OPERATION)
def dequantize_kv(
    kv_cache: TensorT,
    *,
    kv_format: KvFormat,
    descale_k: SupportsDLPack | None = None,
    out: Any = None,
    out_dtype: OutDType = None,
    stream: Any = None,
    num_threads: int = 0,
) -> TensorT:
    """The tokens of `kv_cache` as rows, row i that of slot i. Returns the rows.

    kv_cache     as in `append_kv`; only read
    kv_format    as in `append_kv`
    descale_k    as in `append_kv`
    out          (num_tokens, d_qk) bfloat16, float16 or float32, of the cache's dtype in format "bf16": the first
                 slots; None: made by kv_cache's framework for all of them
    out_dtype    dtype of an `out` that is made; None: bfloat16, in format "bf16" the cache's
    stream       as in `dense_decode`, with kv_cache in the place of q
    num_threads  as in `dense_decode`

    A column is code * scale, rounded to float32 and then to the dtype of out. Raises what `dense_decode` raises.

    >>> pages = flashmla.quantize_kv(random.standard_normal((3, 576), dtype="float32"), kv_format="v32")
    >>> flashmla.dequantize_kv(pages, kv_format="v32", out_dtype="float32").shape
    (3, 576)
    """
    name = None if out_dtype is None else dtype_of_new(out_dtype)
    scalars = kv_format, name, num_threads
    inputs = kv_cache, descale_k
    return _OPERATION.call(scalars, inputs, (out,), stream=stream, objects=inputs)[0]  # type: ignore[no-any-return]
