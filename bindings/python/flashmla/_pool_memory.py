"""The tensors of a PagedKVCache: those that it is given, and those that it makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flashmla._call import Call
from flashmla._cdef import ffi
from flashmla._framework import Framework
from flashmla._frameworks import framework_of, stream_number
from flashmla._library import lib
from flashmla._operation import LIST
from flashmla._scalars import EXTENT, integer
from flashmla._tensor import CPU, device, shape
from flashmla._words import a
from flashmla.errors import UnsupportedError, check

_POINTER = ffi.typeof("void *")


@dataclass
class PoolMemory:
    """The tensors of a pool, which live as long as it does, and the stream of its calls."""

    call: Call
    kv_cache: Any
    page_size: int
    num_blocks: int
    num_layers: int
    block_bytes: int
    block_table: Any = None
    cache_seqlens: Any = None
    slot_mapping: Any = None
    staging: Any = None

    def stream_number(self, stream: Any) -> Any:
        """A given stream, or the current one of the cache's framework, as a `void *`."""
        if stream is None:
            return ffi.cast(_POINTER, self.call.framework.current_stream(self.call.first) or 0)
        return ffi.cast(_POINTER, stream_number(stream))

    def wait(self, stream: Any) -> None:
        """Waits for the work on a stream."""
        check(lib, lib.flashmla_stream_synchronize(device(self.call.model)[1], stream))


def make_memory(
    params: Any,
    kv_cache: Any,
    host_pool: Any,
    *,
    max_seqs: Any = None,
    max_seq_len: Any = None,
    max_slots: Any = None,
    stream: Any = None,
) -> PoolMemory:
    """Reads the tensors of a `flashmla_pool_params *`, and makes those that are not given, if `max_seqs` is."""
    memory = _read_layers(params, kv_cache, stream)
    if max_seqs is None:
        return memory
    rows, tokens = integer(max_seqs, "max_seqs", EXTENT), integer(max_seq_len, "max_seq_len", EXTENT)
    slots = _most_slots(memory, rows, tokens) if max_slots is None else integer(max_slots, "max_slots", EXTENT)
    extents = {
        "block_table": ((rows, -(-tokens // memory.page_size)), "int32"),
        "cache_seqlens": ((rows,), "int32"),
        "slot_mapping": ((slots,), "int64"),
    }
    call = memory.call
    for name, described in extents.items():
        setattr(params, name, call.describe(*described))
    staging = call.query(lib.flashmla_pool_staging_size)
    for name, (tensor, address) in zip(extents, call.make([*extents.values()]), strict=True):
        setattr(memory, name, tensor)
        getattr(params, name).data = address
    if staging:
        memory.staging, address = call.framework.pinned(staging)
        params.staging = call.describe((staging,), "uint8")
        params.staging.device = {"device_type": CPU}
        params.staging.data = ffi.cast(_POINTER, address)
    if host_pool is not None:
        params.host_pool = call.write(host_pool, "host_pool")
    return memory


def _most_slots(memory: PoolMemory, rows: int, tokens: int) -> int:
    """Of an `append` of a sequence with so many tokens, or of a token to each row: the cache has room for no more."""
    return max(rows, min(tokens, memory.num_blocks * memory.page_size))


def _read_layers(params: Any, kv_cache: Any, stream: Any) -> PoolMemory:
    """The tensors of the cache."""
    listed = isinstance(kv_cache, (list, tuple))
    layers = [*kv_cache] if listed else [kv_cache]
    names = [f"kv_cache[{i}]" for i in range(len(layers))] if listed else ["kv_cache"]
    if not layers:
        raise TypeError("kv_cache is an empty list: a tensor for each layer is needed")
    for layer, name in zip(layers, names, strict=True):
        _require_mutable(framework_of(layer), layer, name)
    call = Call(params, layers[0], names[0], stream)
    read = [call.write(layer, name) for layer, name in zip(layers, names, strict=True)]
    params.kv_cache = call.keep(ffi.new(LIST, read))
    params.num_layers = len(layers) if listed else 0
    block_bytes = call.query(lib.flashmla_pool_block_bytes)
    extents = shape(call.model)
    return PoolMemory(
        call=call,
        kv_cache=kv_cache,
        num_layers=len(layers) if listed else extents[0],
        num_blocks=extents[-4],
        page_size=extents[-3],
        block_bytes=block_bytes,
    )


def _require_mutable(framework: Framework, layer: Any, name: str) -> None:
    """Pages are written in place."""
    if framework.mutable:
        return
    raise UnsupportedError(
        f"{name} is {a(layer)}, which never changes, and the pages of a pool are written in place: keep the cache in "
        "NumPy, CuPy or PyTorch, or leave the pool out and write rows functionally, with "
        f"{name}.at[pages, rows].set(...) in the place of append_kv"
    )
