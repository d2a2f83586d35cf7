"""`quantize_kv`: tokens to pages of a format, in their order.

Rules on shapes, dtypes, strides and values are the C library's; its sentence is the message of the exception.
"""

from __future__ import annotations

from typing import Any, TypeVar

from flashmla._append_kv import UNROUNDED_SCALES
from flashmla._dynamo import eager
from flashmla._formats import KvFormat, kv_format_number
from flashmla._framework import Described
from flashmla._library import lib
from flashmla._operation import Operation
from flashmla._options import Options
from flashmla._prepared import by_name, preparable
from flashmla._scalars import EXTENT, INT32, flag, integer
from flashmla._tensor import SupportsDLPack

TensorT = TypeVar("TensorT", bound=SupportsDLPack)


def _described(latent: tuple[int, ...], options: Options) -> tuple[Described, ...]:
    """out as it is made: pages of options.extent tokens, or one page of all."""
    tokens = max(latent[0], 1) if latent else 1
    page_size = options.extent or tokens
    columns = options.columns + (latent[-1] if latent else 0)
    bytes_a_token = lib.flashmla_kv_token_bytes(options.params.kv_format) or columns
    return (((-(-tokens // page_size), page_size, 1, bytes_a_token), "uint8"),)


def _options(kv_format: Any, page_size: Any, unrounded_scales: Any, num_threads: Any, rope_columns: int) -> Options:
    """The scalars of quantize_kv."""
    params = _OPERATION.new_params()
    params.kv_format = kv_format_number(kv_format)
    params.flags |= UNROUNDED_SCALES if flag(unrounded_scales, "unrounded_scales") else 0
    params.num_threads = integer(num_threads, "num_threads", INT32)
    return Options(_OPERATION, params, extent=integer(page_size, "page_size", EXTENT), columns=rope_columns)


def _columns_of(rope: Any) -> int:
    """Those that an `out` that is made has beside latent's. For no matrix they are nonsense, and C refuses it."""
    extents: tuple[int, ...] = getattr(rope, "shape", ())
    return extents[-1] if extents else 0


def _prepared_options(arguments: dict[str, Any]) -> Options:
    """The scalars of a call to be prepared."""
    return by_name(_options)(arguments | {"rope_columns": _columns_of(arguments["rope"])})


_OPERATION = Operation(
    "quantize_kv", ("latent",), optional=("rope", "descale_k"), outputs=("out",), described=_described, options=_options
)


@eager
@preparable(_OPERATION, _prepared_options)
def quantize_kv(
    latent: TensorT,
    rope: SupportsDLPack | None = None,
    *,
    kv_format: KvFormat,
    page_size: int = 0,
    unrounded_scales: bool = False,
    descale_k: SupportsDLPack | None = None,
    out: Any = None,
    stream: Any = None,
    num_threads: int = 0,
) -> TensorT:
    """Tokens in a format of the KV cache, in their order. Returns the pages.

    latent            (num_tokens, d_latent) bfloat16 or float16, on the CPU also float32
    rope              (num_tokens, d_rope), the columns behind latent's; None: latent has all
    kv_format         as in `append_kv`, but for "bf16"
    page_size         tokens of a page of an `out` that is made; 0: all, in one page
    unrounded_scales  as in `append_kv`
    descale_k         as in `append_kv`
    out               as kv_cache of `append_kv`, with num_tokens slots or more, of which the first are written; None:
                      made by latent's framework
    stream            as in `dense_decode`, with latent in the place of q
    num_threads       as in `dense_decode`

    Raises what `dense_decode` raises.

    >>> tokens = random.standard_normal((3, 576), dtype="float32")
    >>> flashmla.quantize_kv(tokens, kv_format="v32").shape
    (1, 3, 1, 656)
    """
    scalars = kv_format, page_size, unrounded_scales, num_threads, _columns_of(rope)
    inputs = latent, rope, descale_k
    return _OPERATION.call(scalars, inputs, (out,), stream=stream, objects=inputs)[0]  # type: ignore[no-any-return]
