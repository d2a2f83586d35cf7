"""`flashmla.metrics()`: counters as OpenMetrics text, for servers."""

from __future__ import annotations

from flashmla._cdef import ffi
from flashmla._dynamo import eager
from flashmla._library import lib
from flashmla._on_error import fallbacks
from flashmla.errors import check

_END = "# EOF\n"


@eager
def metrics() -> str:
    """Calls, the seconds in them, failures by status and fallbacks (`on_error`), as OpenMetrics 1.0 text.

    Counts calls from all threads, from its own first call on, whose time it tells: call it once when the process
    starts. It costs a call about 0.1 us. Serve it as `application/openmetrics-text; version=1.0.0`. Raises nothing.

    >>> text = flashmla.metrics()
    >>> out, lse = flashmla.dense_decode(q, kv_cache, block_table, cache_seqlens)
    >>> 'flashmla_calls_total{operation="dense_decode",device="cpu"}' in flashmla.metrics()
    True
    """
    size = ffi.new("uint64_t *")
    check(lib, lib.flashmla_metrics(ffi.NULL, 0, size))
    while True:
        room = size[0] + 1024  # counters grow meanwhile
        text = ffi.new("char[]", room)
        check(lib, lib.flashmla_metrics(text, room, size))
        if size[0] <= room:
            return str(ffi.string(text).decode()).removesuffix(_END) + _fallbacks() + _END


def _fallbacks() -> str:
    lines = [
        "# TYPE flashmla_fallbacks counter\n",
        "# HELP flashmla_fallbacks Calls that on_error saved, by the status that they had.\n",
    ]
    lines += [
        f'flashmla_fallbacks_total{{operation="{one.operation}",status="{one.status}"}} {one.count}\n'
        for one in fallbacks()
    ]
    return "".join(lines)
