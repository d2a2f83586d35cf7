"""`merge_states`: one result from those over disjoint parts of the KV cache.

Rules on shapes, dtypes, strides and values are the C library's; its sentence is the message of the exception.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, overload

from flashmla._attention import lse_flags, lse_shape
from flashmla._call import Call
from flashmla._dynamo import eager
from flashmla._framework import Described
from flashmla._operation import Operation
from flashmla._options import Options, dtype_of_new, wanted
from flashmla._prepared import preparable
from flashmla._scalars import INT32, flag, integer
from flashmla._tensor import OutDType, SupportsDLPack
from flashmla._words import a
from flashmla.errors import invalid

_RANK_OF_ONE_PART = 4
"""(batch, s_q, h_q, d_v)"""


def _described(shape: tuple[int, ...], options: Options) -> tuple[Described, ...]:
    """out and lse as they are made; an output is never larger than what was given."""
    out_shape = shape if options.listed else shape[1:]
    return (out_shape, options.out_dtype), (lse_shape(out_shape), "float32")


def _options(listed: int, num_threads: Any, out_dtype: Any, lse_base2: Any, empty_lse: Any) -> Options:
    """The scalars of merge_states. `listed`: tensors of each list, 0 where they are stacked in one."""
    params = _OPERATION.new_params()
    params.flags |= lse_flags(lse_base2=lse_base2, empty_lse=empty_lse)
    params.num_states = listed
    params.num_threads = integer(num_threads, "num_threads", INT32)
    return Options(_OPERATION, params, out_dtype=dtype_of_new(out_dtype), listed=listed)


_OPERATION = Operation("merge_states", ("outs", "lses"), outputs=("out", "lse"), described=_described, options=_options)


def _prepared_options(arguments: dict[str, Any]) -> Options:
    """The scalars of a call to be prepared."""
    outs, _ = _parts(arguments["outs"], arguments["lses"], arguments["stacked"])
    listed = 0 if outs[0] is arguments["outs"] else len(outs)
    names = ("num_threads", "out_dtype", "lse_base2", "empty_lse")
    return _options(listed, *(arguments[name] for name in names))


@overload
def merge_states(
    outs: SupportsDLPack | Sequence[SupportsDLPack],
    lses: SupportsDLPack | Sequence[SupportsDLPack],
    *,
    stacked: bool = ...,
    out: Any = ...,
    lse: Any = ...,
    out_dtype: OutDType = ...,
    lse_base2: bool = ...,
    empty_lse: float = ...,
    return_lse: Literal[True] = ...,
    stream: Any = ...,
    num_threads: int = ...,
) -> tuple[Any, Any]: ...
@overload
def merge_states(
    outs: SupportsDLPack | Sequence[SupportsDLPack],
    lses: SupportsDLPack | Sequence[SupportsDLPack],
    *,
    stacked: bool = ...,
    out: Any = ...,
    lse: Any = ...,
    out_dtype: OutDType = ...,
    lse_base2: bool = ...,
    empty_lse: float = ...,
    return_lse: Literal[False],
    stream: Any = ...,
    num_threads: int = ...,
) -> Any: ...
@eager
@preparable(_OPERATION, _prepared_options)
def merge_states(
    outs: SupportsDLPack | Sequence[SupportsDLPack],
    lses: SupportsDLPack | Sequence[SupportsDLPack],
    *,
    stacked: bool = False,
    out: Any = None,
    lse: Any = None,
    out_dtype: OutDType = None,
    lse_base2: bool = False,
    empty_lse: float = math.inf,
    return_lse: bool = True,
    stream: Any = None,
    num_threads: int = 0,
) -> Any:
    """Joins results of `dense_decode` over disjoint parts of the KV cache. Returns `(out, lse)`, or `out`.

    outs         a list or tuple of n tensors (batch, s_q, h_q, d_v), on a GPU at most 16 unless evenly spaced, or one
                 stacked tensor (n, batch, s_q, h_q, d_v); bfloat16, float16 or float32. Or without the batch axis:
                 (total_q, h_q, d_v)
    lses         likewise (batch, h_q, s_q) or (n, batch, h_q, s_q), or (h_q, total_q), float32. Either infinity marks
                 an empty part, whose out is not read
    stacked      True: outs and lses are one tensor each, whose first axis is the parts. Needed for (n, total_q, h_q,
                 d_v), which looks like the results of one part
    out, lse     written if given; else made by the framework of outs on its device
    out_dtype    dtype of an `out` that is made; None: that of outs
    lse_base2    lses and lse are base 2 instead of natural
    empty_lse    inf or -inf: lse of a row for which all parts are empty
    return_lse   False: `out` alone is returned, and no lse is made
    stream       as in `dense_decode`, with outs in the place of q
    num_threads  as in `dense_decode`

    Strides are free but for the innermost one of outs and out. No scratch is needed. Raises what `dense_decode` raises.

    >>> pages = [flashmla.dense_decode(q, kv_cache, block_table[:, i : i + 1], cache_seqlens // 2) for i in range(2)]
    >>> out, lse = flashmla.merge_states([out for out, _ in pages], [lse for _, lse in pages])
    >>> out.shape, lse.shape
    ((2, 1, 16, 512), (2, 16, 1))
    """
    parts, part_lses = _parts(outs, lses, stacked)
    dtype = dtype_of_new(out_dtype)
    listed = 0 if parts[0] is outs else len(parts)
    scalars = listed, num_threads, dtype, lse_base2, empty_lse
    outputs = (out, lse) if return_lse is True else wanted(out, lse, return_lse=return_lse)
    found = _OPERATION.call(scalars, (outs, lses), outputs, stream=stream, objects=(*parts, *part_lses))
    return found if return_lse else found[0]


def _parts(outs: Any, lses: Any, stacked: Any) -> tuple[Sequence[Any], Sequence[Any]]:
    """outs and lses as sequences of the same length. C has one count for both, so it cannot see a difference."""
    single = not isinstance(outs, (list, tuple))
    if isinstance(lses, (list, tuple)) == single:
        kinds = f"outs is {a(outs)}, lses is {a(lses)}"
        raise TypeError(f"{kinds}: both must be tensors, or both lists or tuples of tensors")
    if stacked is not False and flag(stacked, "stacked") and not single:
        raise TypeError(f"stacked is True, but outs is {a(outs)}: a tensor is needed")
    if single:
        if not stacked and _rank(outs) == _RANK_OF_ONE_PART:
            raise invalid(
                "FLASHMLA_ERROR_SHAPE",
                f"outs.ndim is {_RANK_OF_ONE_PART}: results of one part, or parts (n, total_q, h_q, d_v)? Results of "
                "several parts must be listed, outs=[...], lses=[...]; such a stack needs stacked=True",
            )
        return [outs], [lses]
    if len(outs) != len(lses):
        raise invalid("FLASHMLA_ERROR_SHAPE", f"lses has {len(lses)} tensors, outs has {len(outs)}")
    if not outs:
        raise invalid("FLASHMLA_ERROR_ZERO_EXTENT", "outs is empty; at least one state is needed")
    return outs, lses


def _rank(outs: Any) -> int:
    """Of a tensor, exported where it does not say."""
    rank = getattr(outs, "ndim", None)
    return rank if type(rank) is int else int(Call(_OPERATION.new_params(), outs, "outs", None).model.ndim)
