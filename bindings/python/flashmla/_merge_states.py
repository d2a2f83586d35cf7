"""`merge_states`: one result from those over disjoint parts of the KV cache.

Rules on shapes, dtypes, strides and values are the C library's; its sentence is the message of the exception.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from flashmla._call import Call, dtype_of_new, lse_flags, lse_shape, params_type
from flashmla._cdef import ffi
from flashmla._library import lib
from flashmla._scalars import INT32, integer
from flashmla._tensor import SupportsDLPack, shape
from flashmla.errors import invalid

_PARAMS = params_type("flashmla_merge_states_params")
_TENSORS = ffi.typeof("const DLTensor *[]")


def merge_states(
    outs: SupportsDLPack | Sequence[SupportsDLPack],
    lses: SupportsDLPack | Sequence[SupportsDLPack],
    *,
    out: Any = None,
    lse: Any = None,
    out_dtype: str | None = None,
    lse_base2: bool = False,
    empty_lse: float = math.inf,
    stream: Any = None,
    num_threads: int = 0,
) -> tuple[Any, Any]:
    """Joins results of `dense_decode` over disjoint parts of the KV cache. Returns `(out, lse)`.

    outs         one tensor (n, batch, s_q, h_q, d_v), or a list or tuple of n tensors (batch, s_q, h_q, d_v), on a GPU
                 at most 16 unless evenly spaced; bfloat16, float16 or float32. Or without the batch axis: (total_q,
                 h_q, d_v). The first axis of one tensor is always n
    lses         likewise (n, batch, h_q, s_q) or (batch, h_q, s_q), or (h_q, total_q), float32. Either infinity marks
                 an empty part, whose out is not read
    out, lse     written if given; else made by the framework of outs on its device
    out_dtype    dtype of an `out` that is made; None: that of outs
    lse_base2    lses and lse are base 2 instead of natural
    empty_lse    inf or -inf: lse of a row for which all parts are empty
    stream       as in `dense_decode`, with outs in the place of q
    num_threads  as in `dense_decode`

    Strides are free but for the innermost one of outs and out. No scratch is needed.
    """
    stacked = not isinstance(outs, (list, tuple))
    parts, part_lses = _parts(outs, lses, stacked=stacked)
    call = Call(_PARAMS, parts[0], "outs" if stacked else "outs[0]", stream)
    params = call.params
    params.flags = lse_flags(lse_base2=lse_base2, empty_lse=empty_lse)
    params.num_states = 0 if stacked else len(parts)
    params.num_threads = integer(num_threads, "num_threads", INT32)
    tensors = [call.model, *(call.read(part, f"outs[{i}]") for i, part in enumerate(parts[1:], 1))]
    lse_tensors = [call.read(part, "lses" if stacked else f"lses[{i}]") for i, part in enumerate(part_lses)]
    params.outs = pointers = ffi.new(_TENSORS, tensors)
    params.lses = lse_pointers = ffi.new(_TENSORS, lse_tensors)

    dtype = dtype_of_new(out, out_dtype)
    # There is no size query: an output is never larger than what was given.
    out_shape = shape(call.model)[1:] if stacked else shape(call.model)
    if out is None:
        params.out = call.describe(out_shape, dtype)
        out, params.out.data = call.make(out_shape, dtype)
    else:
        params.out = call.write(out, "out")
    if lse is None:
        params.lse = call.describe(lse_shape(out_shape), "float32")
        lse, params.lse.data = call.make(lse_shape(out_shape), "float32")
    else:
        params.lse = call.write(lse, "lse")
    call.run(lib.flashmla_merge_states)
    del pointers, lse_pointers  # lived until here
    return out, lse


def _parts(outs: Any, lses: Any, *, stacked: bool) -> tuple[Sequence[Any], Sequence[Any]]:
    """outs and lses as sequences of the same length. C has one count for both, so it cannot see a difference."""
    if isinstance(lses, (list, tuple)) == stacked:
        kinds = f"outs is a {type(outs).__qualname__}, lses is a {type(lses).__qualname__}"
        raise TypeError(f"{kinds}: both must be tensors, or both lists or tuples of tensors")
    if stacked:
        return [outs], [lses]
    if len(outs) != len(lses):
        raise invalid("FLASHMLA_ERROR_SHAPE", f"lses has {len(lses)} tensors, outs has {len(outs)}")
    if not outs:
        raise invalid("FLASHMLA_ERROR_ZERO_EXTENT", "outs is empty; at least one state is needed")
    return outs, lses
