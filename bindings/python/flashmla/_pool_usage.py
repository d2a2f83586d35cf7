"""What the blocks of a pool are used for."""

from __future__ import annotations

from typing import Any, NamedTuple

from flashmla._cdef import ffi
from flashmla._library import lib
from flashmla.errors import check


class PoolUsage(NamedTuple):
    """What the blocks of a pool are used for: what `flashmla_pool_usage` in pool.h counts, in its order."""

    num_blocks: int
    free: int
    cached: int
    used: int
    shared: int
    num_host_blocks: int
    host_free: int
    max_seqs: int
    free_rows: int
    sequences: int
    swapped: int


def usage_of(pool: Any) -> PoolUsage:
    """Of a `flashmla_pool *`."""
    usage = ffi.new("flashmla_pool_usage *", {"struct_size": ffi.sizeof("flashmla_pool_usage")})
    check(lib, lib.flashmla_pool_get_usage(pool, usage))
    return PoolUsage(*(getattr(usage, name) for name, _ in ffi.typeof(usage).item.fields[1:]))
