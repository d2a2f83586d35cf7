"""A pool over small float32 caches beside its model: each call is made on both, and what they say is compared."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import flashmla
from pool.memory import NumPyMemory
from pool.model import Block, Model, Refused, Sequence

ROW = 8  # columns of a row, all alike


def layered(memory, num_blocks: int, page_size: int, layers: int, layout: str) -> tuple:
    """What PagedKVCache is given, and the layers of it."""
    if layout == "listed":
        made = [memory.made(np.full((num_blocks, page_size, 1, ROW), np.nan, "float32")) for _ in range(layers)]
        return made, made
    order = (layers, num_blocks) if layout == "stacked" else (num_blocks, layers)
    whole = memory.made(np.full((*order, page_size, 1, ROW), np.nan, "float32"))
    if layout == "interleaved":
        whole = whole.swapaxes(0, 1)
    return whole, [*whole]


class Subject:
    """`check` looks at everything, after an update."""

    def __init__(self, model: Model, layers: int = 2, layout: str = "listed", memory=None) -> None:
        self.model = model
        self.memory = memory or NumPyMemory()
        self.given, self.layers = layered(self.memory, model.num_blocks, model.page_size, layers, layout)
        size = flashmla.PagedKVCache.bytes_of_block(self.given)
        self.host = None
        if model.host_blocks:
            self.host = self.memory.host(np.full((model.host_blocks, size), 255, "uint8"))
        self.cache = self.make()
        self.slots: list[int] = []  # of the last append

    def make(self, hash_key: int = 3) -> flashmla.PagedKVCache:
        model = self.model
        return flashmla.PagedKVCache(
            self.given,
            max_seqs=model.rows,
            max_seq_len=model.max_blocks * model.page_size,
            max_slots=model.slots,
            host_pool=self.host,
            max_sequences=model.max_sequences,
            hash_key=hash_key,
        )

    def both(self, on_model: Callable, on_pool: Callable):
        """(what the model says, what the pool says); None where the model refuses, and the pool must."""
        self.number_blocks()  # those that this call gives up, too
        before = self.cache.to_bytes()
        try:
            expected = on_model()
        except Refused as refused:
            status = f"FLASHMLA_ERROR_{refused}"
        else:
            return expected, on_pool()
        with pytest.raises(flashmla.FlashMLAError) as caught:
            on_pool()
        assert caught.value.status_name == status, caught.value
        assert self.cache.to_bytes() == before, "a call that failed changed something"
        return None

    def allocate(self, ids: list[int]) -> int | None:
        shares = len(self.model.matched(ids)) * self.model.page_size
        assert self.cache.match(ids) == shares
        made = self.both(lambda: self.model.allocate(ids), lambda: self.cache.allocate(ids))
        if made is None:
            return None
        sequence, (name, cached) = made
        assert cached == sequence.length == shares
        return self.add(name, sequence)

    def add(self, name: int, sequence: Sequence) -> int:
        assert name not in self.model.sequences
        assert name not in self.model.freed
        self.model.sequences[name] = sequence
        return name

    def append(self, names: list[int], ids: list[list[int]]) -> None:
        counts = [len(new) for new in ids]
        made = self.both(lambda: self.model.append(names, ids), lambda: self.cache.append(names, counts))
        if made is None:
            return
        tags, total = made
        assert total == len(tags)
        self.slots = [slot for name, new in zip(names, ids, strict=True) for slot in self.last_slots(name, len(new))]
        for i, layer in enumerate(self.layers):
            rows = np.repeat(self.value(tags, i)[:, None], ROW, 1)
            self.memory.write(layer, rows, np.asarray(self.slots, "int64"), self.model.page_size)
        for name in names:
            self.look_at(name)

    def look_at(self, name: int) -> None:
        """What a sequence has may be read after an append."""
        sequence, pages = self.model.sequences[name], self.cache.blocks(name)
        tags = sequence.tags[sequence.head * self.model.page_size :]
        for i, layer in enumerate(self.layers):
            self.memory.look_at(layer, pages, np.repeat(self.value(tags, i)[:, None], ROW, 1))

    def last_slots(self, name: int, count: int) -> list[int]:
        """Where the last tokens of a sequence belong."""
        page, sequence = self.model.page_size, self.model.sequences[name]
        blocks = self.cache.blocks(name)
        places = range(sequence.length - count, sequence.length)
        return [blocks[place // page - sequence.head] * page + place % page for place in places]

    @staticmethod
    def value(tags, layer: int) -> np.ndarray:
        return np.asarray(tags, "float32").reshape(-1) * 4 + layer

    def fork(self, name: int) -> None:
        made = self.both(lambda: self.model.fork(name), lambda: self.cache.fork(name))
        if made is not None:
            self.add(made[1], made[0])

    def call(self, method: str, *arguments) -> None:
        """Of a method that returns nothing, with the same arguments on both."""
        self.both(lambda: getattr(self.model, method)(*arguments), lambda: getattr(self.cache, method)(*arguments))

    def commit(self, name: int, tokens: int) -> None:
        ids = self.model.sequences[name].ids
        given = (ids + [0] * tokens)[:tokens]
        self.both(lambda: self.model.commit(name, tokens), lambda: self.cache.commit(name, given))

    def hold(self, block: Block) -> None:
        self.number_blocks()
        self.model.hold(block)
        self.cache.hold(block.number)

    def release(self, block: Block) -> None:
        self.model.release(block)
        self.cache.release(block.number)

    def reload(self) -> None:
        """As after a restart: another pool over the same memory."""
        state = self.cache.to_bytes()
        self.memory.read(self.cache.slot_mapping)  # work on its arrays is done
        self.cache = self.make()
        self.cache.load(state)
        self.slots = []
        assert self.cache.to_bytes() == state
        for sequence in self.model.sequences.values():
            sequence.shown = True

    # -- comparison

    def check_usage(self) -> None:
        model, usage = self.model, self.cache.usage()
        assert usage == flashmla.PoolUsage(
            num_blocks=model.num_blocks,
            free=model.free_blocks,
            cached=len(model.cached),
            used=len(model.used),
            shared=sum(block.references > 1 for block in model.used),
            num_host_blocks=model.host_blocks,
            host_free=model.free_host_blocks,
            max_seqs=model.rows,
            free_rows=model.rows - len(model.resident),
            sequences=len(model.sequences),
            swapped=len(model.sequences) - len(model.resident),
        )

    def number_blocks(self) -> None:
        """Every block has had one number since it was taken, and no two have the same."""
        for name in self.model.resident:
            sequence = self.model.sequences[name]
            numbers = self.cache.blocks(name)
            assert len(numbers) == len(sequence.blocks)
            for block, number in zip(sequence.blocks, numbers, strict=True):
                assert block.number in {None, number}, "a block was moved"
                block.number = number
        known = [block.number for block in (*self.model.used, *self.model.cached)]
        assert len(known) == len(set(known)), "a page has two blocks"
        assert None not in known

    def check(self) -> None:
        self.cache.update()
        self.check_usage()
        self.number_blocks()
        table, read = self.memory.read(self.cache.block_table), [self.memory.read(layer) for layer in self.layers]
        lengths = np.zeros(self.model.rows, "int32")
        for name, sequence in self.model.sequences.items():
            row = self.cache.row(name)
            assert self.cache.length(name) == sequence.length
            assert self.cache.committed(name) == sequence.committed_blocks * self.model.page_size
            assert (row == -1) == (sequence.blocks is None)
            if sequence.blocks is not None:
                assert lengths[row] == 0
                lengths[row] = sequence.length if sequence.shown else 0
                self.check_row(sequence, table[row])
            self.check_contents(name, sequence, read)
        np.testing.assert_array_equal(self.memory.read(self.cache.cache_seqlens), lengths)
        slots = self.memory.read(self.cache.slot_mapping)
        assert slots.tolist() == self.slots + [-1] * (self.model.slots - len(self.slots))
        self.check_cached(read)

    @staticmethod
    def check_row(sequence: Sequence, row: np.ndarray) -> None:
        expected = [-1] * sequence.head + [block.number for block in sequence.blocks]
        assert row[: len(expected)].tolist() == expected

    def check_contents(self, name: int, sequence: Sequence, held: list[np.ndarray]) -> None:
        numbers, page = self.cache.blocks(name), self.model.page_size
        if sequence.blocks is None:
            per_layer = (
                self.memory.read(self.host)
                .view("float32")
                .reshape(self.model.host_blocks, len(self.layers), page, 1, ROW)
            )
            held = [per_layer[:, i] for i in range(len(self.layers))]
        tags = sequence.tags[sequence.head * page :]
        for i, layer in enumerate(held):
            rows = layer[numbers, :, 0].reshape(-1, ROW)[: len(tags)]
            assert (rows == self.value(tags, i)[:, None]).all(), "a token's row is not what was written"

    def check_cached(self, held: list[np.ndarray]) -> None:
        for block in self.model.cached:
            for i, layer in enumerate(held):
                assert (layer[block.number, :, 0] == self.value(self.model.contents[block], i)[:, None]).all()

    def poison(self) -> None:
        """Pages that nobody has hold NaN, as recycled pages may."""
        self.number_blocks()
        kept = {block.number for block in (*self.model.used, *self.model.cached)}
        free = [number for number in range(self.model.num_blocks) if number not in kept]
        for layer in self.layers:
            self.memory.poison(layer, free)

    def end(self) -> None:
        """Every sequence and hold goes, and every page is accounted for."""
        for block in [*self.model.used]:
            while block.holds:
                self.release(block)
        for name in [*self.model.sequences]:
            self.call("free", name)
        self.check_usage()
        assert not self.model.used
