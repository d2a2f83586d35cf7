"""PagedKVCache as Python sees it: arguments, formats, frameworks, sentences, and attention over what it keeps."""
# ruff: noqa: ARG005 - calls of a table have the same arguments

from __future__ import annotations

import array
import copy
import pickle
import sys

import numpy as np
import pytest

import flashmla
from at_once import at_once

PAGE = 4


def cache_of(num_blocks: int = 8, **more) -> flashmla.PagedKVCache:
    pages = np.zeros((num_blocks, PAGE, 1, 8), "float32")
    return flashmla.PagedKVCache([pages], **{"max_seqs": 3, "max_seq_len": 16} | more)


def with_host(**more) -> flashmla.PagedKVCache:
    return cache_of(host_pool=np.zeros((4, PAGE * 8 * 4), "uint8"), **more)


def refused(call, *parts: str, kind=flashmla.InvalidArgumentError) -> None:
    with pytest.raises(kind) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)


def test_what_it_tells():
    cache = with_host(max_slots=5)
    assert (cache.num_blocks, cache.page_size, cache.num_layers, cache.block_bytes) == (8, PAGE, 1, PAGE * 8 * 4)
    assert cache.block_table.shape == (3, 4)
    assert cache.block_table.dtype == cache.cache_seqlens.dtype == np.int32
    assert (cache.slot_mapping.shape, cache.slot_mapping.dtype) == ((5,), np.int64)
    assert (cache.block_table == -1).all()
    assert (cache.slot_mapping == -1).all()
    assert not cache.cache_seqlens.any()
    assert repr(cache) == "<flashmla.PagedKVCache 0 of 8 blocks used, 0 sequences>"
    assert cache.usage() == flashmla.PoolUsage(8, 8, 0, 0, 0, 4, 4, 3, 3, 0, 0)


def test_slots_are_no_more_than_tokens_fit_in():
    """Unless they are asked for; rows of block_table are as long as sequences may be, whose heads may be freed."""
    assert cache_of(max_seq_len=2**20).slot_mapping.shape == (8 * PAGE,)
    assert cache_of(max_seq_len=2**20).block_table.shape == (3, 2**20 // PAGE)
    assert cache_of(max_seqs=50).slot_mapping.shape == (50,), "one for each row"
    assert cache_of(max_seq_len=2**20, max_slots=100).slot_mapping.shape == (100,)
    cache = cache_of(max_seq_len=2**20)
    sequence, _ = cache.allocate()
    refused(
        lambda: cache.append([sequence], [8 * PAGE + 1]),
        "33 tokens are appended; slot_mapping has room for 32",
        kind=flashmla.PoolFullError,
    )
    assert cache.append([sequence], [8 * PAGE]) == 8 * PAGE
    np.testing.assert_array_equal(np.sort(cache.slot_mapping), np.arange(8 * PAGE))


@pytest.mark.parametrize(
    "tokens",
    [range(6), (0, 1, 2, 3, 4, 5), array.array("q", range(6)), np.arange(6), np.arange(6, dtype="int32"),
     np.arange(12)[::2] // 2, iter(range(6)), bytes(range(6)), bytearray(range(6))],
)  # fmt: skip
def test_ids_of_any_kind(tokens):
    cache = cache_of()
    first, _ = cache.allocate(list(range(6)))
    cache.append([first], [6])
    cache.commit(first, list(range(6)))
    assert cache.allocate(tokens)[1] == 4


def test_ids_of_torch():
    torch = pytest.importorskip("torch")
    cache = cache_of()
    assert cache.allocate(torch.arange(6)) != cache.allocate(torch.arange(6, dtype=torch.int32))


def released():
    view = memoryview(b"12345678")
    view.release()
    return view


@pytest.mark.parametrize(
    ("call", "kind", "parts"),
    [
        (lambda c, s: c.allocate([2**63]), flashmla.InvalidArgumentError, ["a token id is beyond 64 bits"]),
        (lambda c, s: c.allocate(["a"]), TypeError, ["tokens is a list: integers are needed"]),
        (lambda c, s: c.allocate(7), TypeError, ["tokens is an int: integers are needed"]),
        (lambda c, s: c.match(np.zeros(3, "M8[s]")), TypeError, ["tokens is an ndarray: integers are needed"]),
        (lambda c, s: c.match(released()), TypeError, ["tokens is a memoryview: integers are needed"]),
        (lambda c, s: c.load(released()), TypeError, ["state is a memoryview: the bytes of to_bytes are needed"]),
        (lambda c, s: c.load(np.zeros(8, np.uint8)[::2]), TypeError, ["state is an ndarray: the bytes of to_bytes"]),
        (lambda c, s: c.append([s], [1, 2]), flashmla.InvalidArgumentError, ["counts has 2 numbers, seqs 1"]),
        (lambda c, s: c.append([s, s]), flashmla.InvalidArgumentError, ["is named twice"]),
        (lambda c, s: c.append([-1]), flashmla.InvalidArgumentError, ["seqs: "]),
        (lambda c, s: c.append(["a"]), TypeError, ["seqs is a list: integers are needed"]),
        (lambda c, s: c.append([s], [2**40]), flashmla.InvalidArgumentError, ["counts: "]),
        (lambda c, s: c.append([s], [-1]), flashmla.InvalidArgumentError, ["sequence {s} gets -1 tokens"]),
        (lambda c, s: c.append([s], [11]), flashmla.PoolFullError, ["sequence {s} would have 17 tokens", "16"]),
        (lambda c, s: c.append([s], [9], stream="x"), TypeError, ["stream is 'x'"]),
        (lambda c, s: c.free(0), flashmla.InvalidArgumentError, ["sequence 0 is unknown"]),
        (lambda c, s: c.free(2**64), flashmla.InvalidArgumentError, ["seq is 18446744073709551616; it must be"]),
        (lambda c, s: c.free("s"), TypeError, ["seq is 's', a str: an integer is needed"]),
        (lambda c, s: c.free(cache_of().allocate()[0]), flashmla.InvalidArgumentError, ["is not of this pool"]),
        (lambda c, s: (c.free(s), c.free(s)), flashmla.InvalidArgumentError, ["sequence {s} was freed before"]),
        (lambda c, s: c.truncate(s, 7), flashmla.InvalidArgumentError, ["length is 7; sequence {s} has tokens [0, 6)"]),
        (lambda c, s: c.free_head(s, 7), flashmla.InvalidArgumentError, ["first is 7; it must be in [0, 6], the"]),
        (lambda c, s: c.commit(s, range(7)), flashmla.InvalidArgumentError, ["the tokens are 7; sequence {s} has 6"]),
        (lambda c, s: c.swap_in(s), flashmla.InvalidArgumentError, ["sequence {s} is not swapped out"]),
        (lambda c, s: (c.swap_out(s), c.fork(s)), flashmla.InvalidArgumentError, ["sequence {s} is swapped out"]),
        (lambda c, s: c.hold(8), flashmla.InvalidArgumentError, ["block 8 is none of this pool; it must be in [0, 8)"]),
        (lambda c, s: c.hold(7), flashmla.InvalidArgumentError, ["block 7 is not in use"]),
        (lambda c, s: c.release(0), flashmla.InvalidArgumentError, ["block 0 is not held"]),
        (lambda c, s: [c.fork(s) for _ in range(3)], flashmla.PoolFullError, ["all 3 rows of block_table are taken"]),
        (lambda c, s: c.load(b""), flashmla.InvalidArgumentError, ["the pool has 1 sequences and 2 used blocks"]),
    ],
)  # fmt: skip
def test_each_trouble_has_a_sentence_of_its_own(call, kind, parts):
    cache = with_host()
    sequence, _ = cache.allocate()
    cache.append([sequence], [6])
    with pytest.raises(kind) as caught:
        call(cache, sequence)
    for part in parts:
        assert part.format(s=sequence) in str(caught.value)


def test_out_of_blocks_and_host_blocks():
    cache = with_host(max_sequences=3, max_slots=40)
    names = [cache.allocate()[0] for _ in range(2)]
    cache.append(names, [16, 16])
    third, _ = cache.allocate()
    refused(
        lambda: cache.append([third]), "1 blocks are needed, 0 of 8 are free and 0 cached", kind=flashmla.PoolFullError
    )
    assert cache.length(third) == 0
    cache.swap_out(names[0])
    sentence = f"sequence {names[1]} has 4 blocks, 0 of 4 of host_pool are free"
    refused(lambda: cache.swap_out(names[1]), sentence, kind=flashmla.PoolFullError)
    refused(cache.allocate, "there are 3 sequences, as many as max_sequences", kind=flashmla.PoolFullError)
    refused(lambda: cache_of().swap_out(0), "the pool has no host_pool")


def test_wrong_arguments():
    pages = np.zeros((8, PAGE, 1, 8), "float32")
    sizes = {"max_seqs": 1, "max_seq_len": 8}
    with pytest.raises(TypeError, match="kv_cache is an empty list: a tensor for each layer is needed"):
        flashmla.PagedKVCache([], **sizes)
    with pytest.raises(TypeError, match=r"kv_cache\[1\] is a NoneType: a tensor that supports DLPack is needed"):
        flashmla.PagedKVCache([pages, None], **sizes)
    refused(lambda: flashmla.PagedKVCache(pages, **sizes), "kv_cache.ndim is 4; it must be 5 (num_layers, num_blocks")
    refused(lambda: flashmla.PagedKVCache([pages], max_seqs=0, max_seq_len=8), "block_table.shape[0] (max_seqs) is 0")
    refused(lambda: flashmla.PagedKVCache([pages], **sizes, kv_format="v9"), "kv_format is 'v9'; it must be one of")
    refused(lambda: flashmla.PagedKVCache([pages], **sizes, hash_key=-1), "hash_key is -1; it must be in [0, 2^128)")
    refused(
        lambda: flashmla.PagedKVCache([np.zeros((8, PAGE, 1, 16), "float32")[:, :, :, ::2]], **sizes),
        "kv_cache[0].strides[3] is 2",
    )
    host = np.zeros((2, 5), "uint8")
    refused(lambda: flashmla.PagedKVCache([pages], **sizes, host_pool=host), "host_pool.shape[1] is 5; it must be 128")
    pages.flags.writeable = False
    refused(lambda: flashmla.PagedKVCache([pages], **sizes), "kv_cache[0] is read-only and would be written")


def test_jax_arrays_are_refused_and_shown_another_way():
    jax = pytest.importorskip("jax")
    pages = jax.numpy.zeros((8, PAGE, 1, 8))
    refused(lambda: flashmla.PagedKVCache([pages], max_seqs=1, max_seq_len=8), "never changes", "append_kv",
            ".at[pages, rows].set(...)", kind=flashmla.UnsupportedError)  # fmt: skip


def test_it_is_neither_pickled_nor_copied():
    cache = cache_of()
    for copied in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="PagedKVCache cannot be pickled or deep-copied"):
            copied(cache)


def test_states_of_other_pools_are_refused():
    state = cache_of().to_bytes()
    refused(lambda: cache_of().load("text"), "state is a str: the bytes of to_bytes are needed", kind=TypeError)
    refused(lambda: cache_of().load(b""), "the 0 bytes are no state of a pool")
    refused(lambda: cache_of().load(b"x" * 200), "the 200 bytes are no state of a pool")
    refused(lambda: cache_of().load(state[:-8]), "the state is torn: it has")
    refused(
        lambda: cache_of(num_blocks=9).load(state),
        "the state is of a pool whose num_blocks is 8; that of this one is 9",
    )
    refused(lambda: cache_of(hash_key=1).load(state), "the state is of a pool with another hash_key")
    refused(
        lambda: cache_of().load(state[:8] + b"\2" + state[9:]),
        "the state is of version 2; this library reads version 1",
    )
    torn = bytearray(state)
    torn[100] ^= 1
    refused(lambda: cache_of().load(bytes(torn)), "the state is torn: its checksum is not that of its bytes")


@pytest.mark.parametrize("kv_format", ["v32", "v32_nope", "model1", "v41", "fp8"])
def test_pages_of_codes(kv_format):
    """Copies on write and swaps are of whole pages, scales among them."""
    row = {"v32": 656, "v32_nope": 528, "model1": 584, "v41": 528, "fp8": 576}[kv_format]
    columns = {"v32": 576, "v32_nope": 512, "model1": 512, "v41": 512, "fp8": 576}[kv_format]
    size = 16  # tokens of a page: 584 bytes a token and others, whose pages are multiples of 16 bytes
    pages = np.zeros((6, size, 1, row), "uint8")
    host = np.zeros((2, flashmla.PagedKVCache.bytes_of_block([pages], kv_format=kv_format)), "uint8")
    cache = flashmla.PagedKVCache([pages], max_seqs=3, max_seq_len=64, kv_format=kv_format, host_pool=host)
    rows = np.random.default_rng(0).standard_normal((20, columns), dtype="float32")
    name, _ = cache.allocate()
    total = cache.append([name], [20])
    flashmla.append_kv(pages, rows, None, cache.slot_mapping[:total], kv_format=kv_format)
    other = cache.fork(name)
    cache.append([other])
    cache.swap_out(name)
    pages[[block for block in range(6) if block not in cache.blocks(other)]] = 255
    cache.swap_in(name)
    cache.append([name], [0])

    def read(sequence: int, length: int) -> np.ndarray:
        table = cache.block_table[cache.row(sequence)][None].copy()
        offsets = np.array([0, length], "int32")
        return flashmla.gather_kv(pages, table, offsets, length, kv_format=kv_format, out_dtype="float32")

    reference = np.zeros((2, size, 1, row), "uint8")
    flashmla.append_kv(reference, rows, None, np.arange(20), kv_format=kv_format)
    expected = flashmla.dequantize_kv(reference, kv_format=kv_format, out_dtype="float32")
    for sequence in (name, other):
        np.testing.assert_array_equal(read(sequence, 20), expected[:20])


def test_attention_over_the_tables():
    """A ragged batch that shares a prefix, was forked, cut and swapped, attends what contiguous caches would."""
    random = np.random.default_rng(1)
    pages = np.full((16, 16, 1, 576), np.nan, "float32")
    host = np.zeros((16, 16 * 576 * 4), "uint8")
    cache = flashmla.PagedKVCache([pages], max_seqs=4, max_seq_len=128, host_pool=host)
    rows = {}

    def append(names, counts):
        total = cache.append(names, counts)
        made = random.standard_normal((total, 576), dtype="float32")
        flashmla.append_kv(pages, made, None, cache.slot_mapping[:total])
        for name, part in zip(names, np.split(made, np.cumsum(counts)[:-1]), strict=True):
            rows[name] = np.concatenate([rows[name], part])

    prompt = list(range(40))
    first, _ = cache.allocate(prompt)
    rows[first] = np.empty((0, 576), "float32")
    append([first], [40])
    cache.commit(first, prompt)
    second, cached = cache.allocate(prompt)
    assert cached == 32
    rows[second] = rows[first][:32]
    third = cache.fork(first)
    rows[third] = rows[first]
    append([first, second, third], [3, 30, 5])
    cache.truncate(third, 41)
    rows[third] = rows[third][:41]
    cache.swap_out(second)
    append([third], [20])
    cache.swap_in(second)
    append([first, second], [1, 1])
    q = random.standard_normal((4, 1, 16, 576), dtype="float32")
    out, _ = flashmla.dense_decode(q, pages, cache.block_table, cache.cache_seqlens)
    for name, held in rows.items():
        row = cache.row(name)
        padded = np.zeros((8 * 16, 576), "float32")
        padded[: len(held)] = held
        table, length = np.arange(8, dtype="int32")[None], np.array([len(held)], "int32")
        expected, _ = flashmla.dense_decode(q[row : row + 1], padded.reshape(8, 16, 1, 576), table, length)
        np.testing.assert_array_equal(out[row], expected[0])


def test_a_window_frees_its_head():
    """As many pages as the window has stay in use, and attention with the window is not changed."""
    random = np.random.default_rng(2)
    pages = np.zeros((8, 16, 1, 576), "float32")
    cache = flashmla.PagedKVCache([pages], max_seqs=1, max_seq_len=1024)
    name, _ = cache.allocate()
    held = np.empty((0, 576), "float32")
    for step in range(30):
        total = cache.append([name], [7])
        made = random.standard_normal((total, 576), dtype="float32")
        flashmla.append_kv(pages, made, None, cache.slot_mapping[:total])
        held = np.concatenate([held, made])
        cache.free_head(name, max(0, len(held) - 40))
        cache.update()
        assert cache.usage().used <= 4
        if step % 10 == 9:
            q = random.standard_normal((1, 1, 16, 576), dtype="float32")
            found, _ = flashmla.dense_decode(q, pages, cache.block_table, cache.cache_seqlens, window=40)
            whole = np.zeros((1024, 576), "float32")
            whole[: len(held)] = held
            table = np.arange(64, dtype="int32")[None]
            wanted, _ = flashmla.dense_decode(q, whole.reshape(64, 16, 1, 576), table, cache.cache_seqlens, window=40)
            np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_what_changes_while_it_is_told():
    """Sizes are asked for first, and another thread may change them before the rest is told."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    cache = cache_of()
    other, _ = cache.allocate()
    cache.append([other], [3])
    sequence, _ = cache.allocate()
    cache.append([sequence], [2])

    def work(changes: bool) -> None:
        for _ in range(2000):
            if changes:
                cache.append([sequence], [14])
                cache.truncate(sequence, 2)
            else:
                blocks = cache.blocks(sequence)
                assert len({*blocks}) == len(blocks) in (1, 4)
                cache.to_bytes()

    try:
        at_once(work, [True, False, False])
    finally:
        sys.setswitchinterval(before)
