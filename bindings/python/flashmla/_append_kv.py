"""`append_kv`: new tokens into the pages of a KV cache.

Rules on shapes, dtypes, strides and values are the C library's; its sentence is the message of the exception.
"""

from __future__ import annotations

from typing import Any, TypeVar

from flashmla._cdef import ffi
from flashmla._dynamo import eager
from flashmla._formats import KvFormat, kv_format_number
from flashmla._operation import Operation
from flashmla._options import Options
from flashmla._prepared import preparable
from flashmla._scalars import INT32, flag, integer
from flashmla._tensor import SupportsDLPack

TensorT = TypeVar("TensorT", bound=SupportsDLPack)

UNROUNDED_SCALES: int = ffi.integer_const("FLASHMLA_UNROUNDED_SCALES")


def _options(kv_format: Any, unrounded_scales: Any, num_threads: Any) -> Options:
    """The scalars of append_kv."""
    params = _OPERATION.new_params()
    params.kv_format = kv_format_number(kv_format)
    params.flags |= UNROUNDED_SCALES if flag(unrounded_scales, "unrounded_scales") else 0
    params.num_threads = integer(num_threads, "num_threads", INT32)
    return Options(_OPERATION, params)


_OPERATION = Operation(
    "append_kv", ("latent", "slot_mapping"), optional=("rope", "descale_k"), outputs=("kv_cache",), options=_options
)


@eager
@preparable(_OPERATION)
def append_kv(
    kv_cache: TensorT,
    latent: SupportsDLPack,
    rope: SupportsDLPack | None,
    slot_mapping: SupportsDLPack,
    *,
    kv_format: KvFormat = "bf16",
    unrounded_scales: bool = False,
    descale_k: SupportsDLPack | None = None,
    stream: Any = None,
    num_threads: int = 0,
) -> TensorT:
    """Puts new tokens into the pages of `kv_cache`, quantised as its format wants them. Returns `kv_cache`.

    kv_cache          (num_blocks, page_size, 1, d_qk), dtype of latent; in another format than "bf16"
                      (num_blocks, page_size, 1, bytes of a token) uint8, int8 or float8_e4m3fn, its pages contiguous
    latent            (num_tokens, d_latent) bfloat16 or float16, on the CPU also float32
    rope              (num_tokens, d_rope), the columns behind latent's; None: latent has all
    slot_mapping      (num_tokens,) int32 or int64: token i goes to row s % page_size of page s // page_size. One
                      outside the cache, such as -1, is skipped; one that is there several times holds one of its
                      tokens whole
    kv_format         "bf16" (as it is), "v32" (656 bytes), "v32_nope" (528), "model1" (584), "v41" (528), "fp8" (d_qk
                      bytes: a code for each column, and descale_k is the scale of all)
    unrounded_scales  scales of "v32" and "v32_nope" are any float32; False: powers of two
    descale_k         (1,) float32, with "fp8": what codes are multiplied with when they are read; None: 1
    stream            as in `dense_decode`, with latent in the place of q
    num_threads       as in `dense_decode`

    Strides are free but for the innermost ones of latent and rope, and those within a page of bytes. Raises what
    `dense_decode` raises.

    >>> tokens = random.standard_normal((3, 576), dtype="float32")
    >>> pages = numpy.zeros((4, 64, 1, 656), "uint8")
    >>> slots = numpy.array([100, 7, -1])
    >>> flashmla.append_kv(pages, tokens[:, :512], tokens[:, 512:], slots, kv_format="v32") is pages
    True
    """
    scalars = kv_format, unrounded_scales, num_threads
    inputs = latent, slot_mapping, rope, descale_k
    _OPERATION.call(scalars, inputs, (kv_cache,), stream=stream, objects=inputs)
    return kv_cache
