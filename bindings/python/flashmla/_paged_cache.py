"""`PagedKVCache`: which pages of a KV cache belong to which sequence.

The books, their rules and their sentences are the C library's (flashmla_pool_*); here its calls get their tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from flashmla._cdef import ffi
from flashmla._formats import KvFormat
from flashmla._library import lib
from flashmla._plan import no_copy
from flashmla._pool_arguments import counts_of, name_of, names_of, pool_params, token_ids
from flashmla._pool_memory import PoolMemory, make_memory
from flashmla._pool_usage import PoolUsage, usage_of
from flashmla._scalars import INT32, INT64, UINT128, integer
from flashmla._words import a
from flashmla.errors import check, invalid

_STAGING_BUSY: int = ffi.integer_const("FLASHMLA_ERROR_STAGING_BUSY")
_OTHER_SIZE: int = ffi.integer_const("FLASHMLA_ERROR_WORKSPACE_TOO_SMALL")
_MORE_BLOCKS: int = ffi.integer_const("FLASHMLA_ERROR_VALUE")


def _destroy(memory: PoolMemory, pool: Any) -> None:
    """Ends a pool, and keeps its tensors until it has: copies may be under way."""
    lib.flashmla_pool_destroy(pool)
    del memory


class PagedKVCache:
    """Hands out the pages of a KV cache to sequences, and keeps the tensors that attention and writers read.

    kv_cache       a tensor (num_blocks, page_size, 1, row) for each layer, in a list, or one of all layers with an axis
                   in front; a block is a page of every layer. Strides between pages and layers are free. PyTorch, CuPy
                   or NumPy; JAX arrays cannot be written in place
    max_seqs       rows of `block_table`: sequences that are on the device at once
    max_seq_len    tokens of a sequence at most
    max_slots      tokens of one `append` at most; None: the larger of max_seqs and max_seq_len, or of max_seqs and the
                   tokens that kv_cache has room for where these are fewer
    kv_format      as in `append_kv`
    host_pool      (num_host_blocks, block_bytes) uint8 in host memory, pinned where the cache is on a GPU, for
                   `swap_out`; `PagedKVCache.bytes_of_block` tells block_bytes
    max_sequences  sequences, swapped out too, at most; None: max_seqs and a host block each
    hash_key       of the hash that finds equal prefixes, in [0, 2^128); secret where users may choose tokens to harm
                   others
    stream         as in `dense_decode`, here and in the methods, with kv_cache in the place of q

    A sequence is an int. Sequences that begin with the same tokens, or were forked, share blocks; one is copied before
    something is written into it that others have, too. What a block is used for next is ordered by streams, so that
    all work with the cache has to be on one stream, or ordered as if it were. None of the methods may be called while a
    CUDA graph is captured; graphs that read `block_table`, `cache_seqlens` and `slot_mapping`, which stay where they
    are, see in each replay what was uploaded before.

    Raises InvalidArgumentError for what is wrong, PoolFullError where there is no room, and then nothing has changed;
    so do all methods.

    >>> pages = numpy.zeros((8, 64, 1, 576), "float32")
    >>> cache = flashmla.PagedKVCache([pages], max_seqs=2, max_seq_len=256)
    >>> prompt = list(range(100))
    >>> sequence, cached = cache.allocate(prompt)
    >>> total = cache.append([sequence], [100 - cached])
    >>> tokens = random.standard_normal((total, 576), dtype="float32")
    >>> pages = flashmla.append_kv(pages, tokens, None, cache.slot_mapping[:total])
    >>> cache.commit(sequence, prompt)
    >>> another, cached = cache.allocate(prompt)
    >>> cached, cache.usage().shared
    (64, 1)
    >>> out, lse = flashmla.dense_decode(q, pages, cache.block_table, cache.cache_seqlens)
    """

    __slots__ = ("__weakref__", "_memory", "_pool", "kv_format")

    def __init__(
        self,
        kv_cache: Any,
        *,
        max_seqs: int,
        max_seq_len: int,
        max_slots: int | None = None,
        kv_format: KvFormat = "bf16",
        host_pool: Any = None,
        max_sequences: int | None = None,
        hash_key: int = 0,
        stream: Any = None,
    ) -> None:
        key = integer(hash_key, "hash_key", UINT128)
        params = pool_params(kv_format, hash_key=key)
        params.max_sequences = 0 if max_sequences is None else integer(max_sequences, "max_sequences", INT32)
        self._memory: PoolMemory = make_memory(
            params, kv_cache, host_pool, max_seqs=max_seqs, max_seq_len=max_seq_len, max_slots=max_slots, stream=stream
        )
        made = ffi.new("flashmla_pool **")
        check(lib, lib.flashmla_pool_create(params, made))
        self._pool = ffi.gc(made[0], partial(_destroy, self._memory))
        self.kv_format = kv_format

    @staticmethod
    def bytes_of_block(kv_cache: Any, *, kv_format: KvFormat = "bf16") -> int:
        """Bytes of a block in all layers: of a row of host_pool."""
        return make_memory(pool_params(kv_format), kv_cache, None).block_bytes

    @property
    def kv_cache(self) -> Any:
        """The tensors that were given."""
        return self._memory.kv_cache

    @property
    def block_table(self) -> Any:
        """(max_seqs, max_blocks) int32: a row for each sequence that is on the device."""
        return self._memory.block_table

    @property
    def cache_seqlens(self) -> Any:
        """(max_seqs,) int32: the lengths; 0 in rows of none, and of what was swapped in and not appended to since."""
        return self._memory.cache_seqlens

    @property
    def slot_mapping(self) -> Any:
        """(max_slots,) int64: the slots of the tokens appended last, for `append_kv`, and -1 behind them."""
        return self._memory.slot_mapping

    @property
    def num_blocks(self) -> int:
        """Pages of a layer."""
        return self._memory.num_blocks

    @property
    def page_size(self) -> int:
        """Tokens of a page."""
        return self._memory.page_size

    @property
    def num_layers(self) -> int:
        """Layers of the cache."""
        return self._memory.num_layers

    @property
    def block_bytes(self) -> int:
        """Bytes of a block in all layers."""
        return self._memory.block_bytes

    def allocate(self, tokens: Iterable[int] | None = None) -> tuple[int, int]:
        """Makes a sequence; returns it and its length: how many of `tokens` it shares with what was committed.

        Those are whole blocks, and one token less than all at most. The others are to be appended.
        """
        ids = token_ids(tokens)
        sequence, cached = ffi.new("flashmla_sequence *"), ffi.new("int64_t *")
        check(lib, lib.flashmla_pool_allocate(self._pool, ids, len(ids), sequence, cached))
        return int(sequence[0]), int(cached[0])

    def match(self, tokens: Iterable[int]) -> int:
        """How many of `tokens` `allocate` would share now."""
        ids, cached = token_ids(tokens), ffi.new("int64_t *")
        check(lib, lib.flashmla_pool_match(self._pool, ids, len(ids), cached))
        return int(cached[0])

    def append(self, seqs: Sequence[int], counts: Sequence[int] | None = None, *, stream: Any = None) -> int:
        """Makes room for new tokens: counts[i] of seqs[i], or one of each, of all of them or, if it raises, of none;
        but a DeviceError of the upload leaves the tokens in the books, as `length` tells, and the arrays behind until
        a later call brings them up to date.

        Lengths and tables grow, and `slot_mapping` begins with the slots of the new tokens, of the first sequence
        first. Returns how many they are.
        """
        number = self._memory.stream_number(stream)
        total = ffi.new("int64_t *")
        names = names_of(seqs)
        given = ffi.NULL if counts is None else counts_of(counts)
        if counts is not None and len(given) != len(names):
            words = f"counts has {len(given)} numbers, seqs {len(names)}; they must be as many"
            raise invalid("FLASHMLA_ERROR_SHAPE", words)
        check(lib, lib.flashmla_pool_append(self._pool, names, given, len(names), number, total))
        self._update(number)
        return int(total[0])

    def commit(self, seq: int, tokens: Iterable[int]) -> None:
        """Lets sequences to come share the full blocks of `tokens`, the first ones of the sequence, written before."""
        ids = token_ids(tokens)
        check(lib, lib.flashmla_pool_commit(self._pool, name_of(seq), ids, len(ids)))

    def fork(self, seq: int) -> int:
        """Makes a sequence with the same tokens, in the same blocks."""
        child = ffi.new("flashmla_sequence *")
        check(lib, lib.flashmla_pool_fork(self._pool, name_of(seq), child))
        return int(child[0])

    def truncate(self, seq: int, length: int) -> None:
        """Cuts a sequence to `length` tokens."""
        check(lib, lib.flashmla_pool_truncate(self._pool, name_of(seq), integer(length, "length", INT64)))

    def free_head(self, seq: int, first: int) -> None:
        """Gives up the blocks before token `first`, as a sliding window does."""
        check(lib, lib.flashmla_pool_free_head(self._pool, name_of(seq), integer(first, "first", INT64)))

    def free(self, seq: int) -> None:
        """Ends a sequence."""
        check(lib, lib.flashmla_pool_free(self._pool, name_of(seq)))

    def swap_out(self, seq: int, *, stream: Any = None) -> None:
        """Copies a sequence to `host_pool` and gives up its blocks and its row; the copies overlap with other work."""
        check(lib, lib.flashmla_pool_swap_out(self._pool, name_of(seq), self._memory.stream_number(stream)))

    def swap_in(self, seq: int, *, stream: Any = None) -> None:
        """Brings a sequence back. Its length is shown, and its copies are waited for, from the next `append` of it on,
        which may be of no tokens.
        """
        check(lib, lib.flashmla_pool_swap_in(self._pool, name_of(seq), self._memory.stream_number(stream)))

    def update(self, *, stream: Any = None) -> None:
        """Uploads what has changed of the tensors, as `append` does."""
        self._update(self._memory.stream_number(stream))

    def _update(self, stream: Any) -> None:
        while (status := lib.flashmla_pool_update(self._pool, stream)) == _STAGING_BUSY:
            self._memory.wait(stream)  # each time as much is uploaded as staging holds
        check(lib, status)

    def hold(self, block: int) -> None:
        """Keeps a block that is in use as it is, for others that read it, until `release`."""
        check(lib, lib.flashmla_pool_hold(self._pool, integer(block, "block", INT32)))

    def release(self, block: int) -> None:
        """Ends a hold."""
        check(lib, lib.flashmla_pool_release(self._pool, integer(block, "block", INT32)))

    def usage(self) -> PoolUsage:
        """What the blocks are used for: `num_blocks == free + cached + used`."""
        return usage_of(self._pool)

    def length(self, seq: int) -> int:
        """Tokens of a sequence."""
        return int(self._about(seq).length)

    def row(self, seq: int) -> int:
        """The row of a sequence in `block_table` and `cache_seqlens`, the same while it is on the device; -1: it is
        swapped out.
        """
        return int(self._about(seq).row)

    def rows_and_lengths(self, seqs: Sequence[int]) -> tuple[list[int], list[int]]:
        """`row` and `length` of each sequence, in less time than one by one."""
        about = ffi.new("flashmla_pool_sequence *", {"struct_size": ffi.sizeof("flashmla_pool_sequence")})
        get, pool, rows, lengths = lib.flashmla_pool_get_sequence, self._pool, [], []
        for seq in seqs:
            check(lib, get(pool, name_of(seq), about))
            rows.append(about.row)
            lengths.append(about.length)
        return rows, lengths

    def committed(self, seq: int) -> int:
        """Tokens of a sequence that were committed, or shared when it was made."""
        return int(self._about(seq).committed)

    def blocks(self, seq: int) -> list[int]:
        """The blocks that a sequence has, in order; swapped out, rows of `host_pool`."""
        status = _MORE_BLOCKS
        while status == _MORE_BLOCKS:  # again, if another thread has appended meanwhile
            count = self._about(seq).num_blocks
            blocks = ffi.new("int32_t[]", [-1] * count)
            status = lib.flashmla_pool_get_blocks(self._pool, name_of(seq), blocks, count)
        check(lib, status)
        return [block for block in blocks if block >= 0]  # fewer, if another thread has cut it

    def _about(self, seq: int) -> Any:
        about = ffi.new("flashmla_pool_sequence *", {"struct_size": ffi.sizeof("flashmla_pool_sequence")})
        check(lib, lib.flashmla_pool_get_sequence(self._pool, name_of(seq), about))
        return about

    def to_bytes(self) -> bytes:
        """The books, without what is in the cache and in `host_pool`: for `load`, in another process too."""
        size = ffi.new("uint64_t *")
        status = _OTHER_SIZE
        while status == _OTHER_SIZE:  # again, if another thread has changed it meanwhile
            check(lib, lib.flashmla_pool_save_size(self._pool, size))
            made = bytearray(size[0])
            status = lib.flashmla_pool_save(self._pool, ffi.from_buffer(made), len(made))
        check(lib, status)
        return bytes(made)

    def load(self, state: bytes, *, stream: Any = None) -> None:
        """Takes over what `to_bytes` wrote, of a cache alike, into one without sequences. Their names stay."""
        try:
            held = ffi.from_buffer(state)
        except (TypeError, ValueError):  # the latter of memory that is released, or has gaps
            raise TypeError(f"state is {a(state)}: the bytes of to_bytes are needed") from None
        check(lib, lib.flashmla_pool_load(self._pool, held, len(held)))
        self.update(stream=stream)

    @classmethod
    def from_bytes(cls, state: bytes, kv_cache: Any, **arguments: Any) -> PagedKVCache:
        """A cache with the state of `to_bytes`; the arguments are those of PagedKVCache."""
        cache = cls(kv_cache, **arguments)
        cache.load(state, stream=arguments.get("stream"))
        return cache

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise no_copy("PagedKVCache", "PagedKVCache.from_bytes")

    def __repr__(self) -> str:
        usage = self.usage()
        return f"<flashmla.PagedKVCache {usage.used} of {usage.num_blocks} blocks used, {usage.sequences} sequences>"
