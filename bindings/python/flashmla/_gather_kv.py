"""`gather_kv`: tokens of requests from the pages of a KV cache, behind one another.

Rules on shapes, dtypes, strides and values are the C library's; its sentence is the message of the exception.
"""

from __future__ import annotations

from typing import Any, TypeVar

from flashmla._dynamo import eager
from flashmla._formats import KvFormat, kv_format_number, row_made
from flashmla._framework import Described
from flashmla._operation import Operation
from flashmla._options import Options, dtype_of_new
from flashmla._prepared import by_name, preparable
from flashmla._scalars import EXTENT, INT32, integer
from flashmla._tensor import OutDType, SupportsDLPack
from flashmla.errors import invalid

TensorT = TypeVar("TensorT", bound=SupportsDLPack)


def _described(kv_cache: tuple[int, ...], options: Options) -> tuple[Described, ...]:
    """out as it is made."""
    columns, dtype = row_made(kv_cache, options)
    return (((options.extent, columns), dtype),)


def _options(kv_format: Any, num_tokens: Any, out_dtype: Any, num_threads: Any) -> Options:
    """The scalars of gather_kv."""
    params = _OPERATION.new_params()
    params.kv_format = kv_format_number(kv_format)
    params.num_threads = integer(num_threads, "num_threads", INT32)
    rows = 0 if num_tokens is None else integer(num_tokens, "num_tokens", EXTENT)
    return Options(_OPERATION, params, out_dtype=dtype_of_new(out_dtype), extent=rows)


_OPERATION = Operation(
    "gather_kv",
    ("kv_cache", "block_table", "cu_seqlens"),
    optional=("seq_starts", "descale_k"),
    outputs=("out",),
    described=_described,
    options=_options,
)


def _check_rows(num_tokens: Any, out: Any) -> None:
    """The library sees offsets on the device, not how many rows they are."""
    if num_tokens is None and out is None:
        raise invalid("FLASHMLA_ERROR_VALUE", "num_tokens is None and out is None; one of them tells how many rows")


def _prepared_options(arguments: dict[str, Any]) -> Options:
    """The scalars of a call to be prepared."""
    _check_rows(arguments["num_tokens"], arguments["out"])
    return by_name(_options)(arguments)


@eager
@preparable(_OPERATION, _prepared_options)
def gather_kv(
    kv_cache: TensorT,
    block_table: SupportsDLPack,
    cu_seqlens: SupportsDLPack,
    num_tokens: int | None = None,
    *,
    kv_format: KvFormat = "bf16",
    seq_starts: SupportsDLPack | None = None,
    descale_k: SupportsDLPack | None = None,
    out: Any = None,
    out_dtype: OutDType = None,
    stream: Any = None,
    num_threads: int = 0,
) -> TensorT:
    """Tokens of requests as rows behind one another, for prefill over a cached context. Returns the rows.

    kv_cache     as in `append_kv`; only read
    block_table  (batch, max_blocks) int32: page numbers of each request. A token of a page outside the cache, or behind
                 the table, is a row of zeros
    cu_seqlens   (batch + 1,) int32: request i has the rows from cu_seqlens[i] up to cu_seqlens[i + 1]
    num_tokens   rows of an `out` that is made; None: as many as `out` has. Those of no request are not
                 written
    kv_format    as in `append_kv`
    seq_starts   (batch,) int32: first token that is read of each request; None: all 0
    descale_k    as in `append_kv`
    out, out_dtype, stream, num_threads
                 as in `dequantize_kv`

    Raises what `dense_decode` raises.

    >>> offsets = numpy.array([0, 100, 107], "int32")
    >>> flashmla.gather_kv(kv_cache, block_table, offsets, 107).shape
    (107, 576)
    """
    _check_rows(num_tokens, out)
    name = None if out_dtype is None else dtype_of_new(out_dtype)
    scalars = kv_format, num_tokens, name, num_threads
    inputs = kv_cache, block_table, cu_seqlens, seq_starts, descale_k
    return _OPERATION.call(scalars, inputs, (out,), stream=stream, objects=inputs)[0]  # type: ignore[no-any-return]
