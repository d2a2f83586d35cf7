"""Pools whose pages are codes, on every device: what copies on write, swaps and recycled pages leave of them is
attended as caches that were written at once are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

import flashmla

torch = pytest.importorskip("torch")

PAGE, LAYERS, PAGES, TABLE, HEADS, TOPK = 16, 2, 14, 5, 16, 24
ROW_AND_COLUMNS = {
    "v32": (656, 576),
    "v32_nope": (528, 512),
    "model1": (584, 512),
    "v41": (528, 512),
    "fp8": (576, 576),
}
DENSE = [*ROW_AND_COLUMNS]
SPARSE = [name for name in DENSE if name != "fp8"]  # which a GPU does not attend so


@dataclass
class Kept:
    """A pool, and of each sequence the rows that were written: (tokens, layers, columns)."""

    kv_format: str
    device: str
    rows: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        row, self.columns = ROW_AND_COLUMNS[self.kv_format]
        self.draw = torch.Generator().manual_seed(7)
        self.layers = [self.pages(PAGES, row) for _ in range(LAYERS)]
        size = flashmla.PagedKVCache.bytes_of_block(self.layers, kv_format=self.kv_format)
        host = torch.zeros(TABLE, size, dtype=torch.uint8, pin_memory=self.device == "cuda")
        self.cache = flashmla.PagedKVCache(
            self.layers, max_seqs=3, max_seq_len=TABLE * PAGE, kv_format=self.kv_format, host_pool=host
        )

    def pages(self, count: int, row: int) -> Any:
        """Whose bytes are no numbers, so that what is read must have been written."""
        return torch.full((count, PAGE, 1, row), 0xFF, dtype=torch.uint8, device=self.device)

    def made(self, *shape: int) -> Any:
        return torch.randn(*shape, generator=self.draw).to(torch.bfloat16).to(self.device)

    def write(self, layers: list[Any], rows: Any, slots: Any) -> None:
        for layer, pages in enumerate(layers):
            flashmla.append_kv(pages, rows[:, layer].contiguous(), None, slots, kv_format=self.kv_format)

    def allocate(self, tokens: list[int]) -> int:
        """A sequence that shares what was committed."""
        name, cached = self.cache.allocate(tokens)
        self.rows[name] = self.made(0, LAYERS, self.columns)
        for other in self.rows.values():
            if cached and len(other) >= cached:
                self.rows[name] = other[:cached]
                break
        self.append([name], [len(tokens) - cached])
        self.cache.commit(name, tokens)
        return name

    def append(self, names: list[int], counts: list[int]) -> None:
        total = self.cache.append(names, counts)
        rows = self.made(total, LAYERS, self.columns)
        self.write(self.layers, rows, self.cache.slot_mapping[:total])
        for name, part in zip(names, rows.split(counts), strict=True):
            self.rows[name] = torch.cat([self.rows[name], part])

    def fork(self, name: int) -> int:
        child = self.cache.fork(name)
        self.rows[child] = self.rows[name]
        return child

    def poison(self) -> None:
        """Pages that nobody has, when no swap reads them any more."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        kept = {block for name in self.rows if self.cache.row(name) >= 0 for block in self.cache.blocks(name)}
        for pages in self.layers:
            pages[sorted({*range(PAGES)} - kept)] = 0xFF

    def written_at_once(self) -> list[Any]:
        """The layers of caches in which row r of the table has pages [r * TABLE, (r + 1) * TABLE)."""
        layers = [self.pages(3 * TABLE, ROW_AND_COLUMNS[self.kv_format][0]) for _ in range(LAYERS)]
        for name, rows in self.rows.items():
            first = self.cache.row(name) * TABLE * PAGE
            self.write(layers, rows, torch.arange(first, first + len(rows), device=self.device))
        return layers


@pytest.fixture
def kept(request, device) -> Kept:
    """After shared prefixes, copies on write, cuts, and swaps into other pages than before."""
    it = Kept(request.param, device)
    prompt = list(range(40))
    first = it.allocate(prompt)
    second = it.allocate(prompt)
    assert it.cache.usage().shared == 2
    third = it.fork(first)
    it.append([first, second, third], [3, 20, 5])
    it.cache.truncate(second, 35)
    it.rows[second] = it.rows[second][:35]
    before = it.cache.blocks(second)
    it.cache.swap_out(second)
    it.poison()
    it.append([third], [20])  # in pages that the swap has left, too
    it.cache.swap_in(second)
    it.append([second, first], [1, 1])
    assert it.cache.blocks(second) != before
    return it


@pytest.mark.parametrize("kept", DENSE, indirect=True)
def test_dense_decode_attends_what_was_written(kept):
    q = kept.made(3, 1, HEADS, kept.columns)
    table = torch.arange(3 * TABLE, dtype=torch.int32, device=kept.device).reshape(3, TABLE)
    lengths = kept.cache.cache_seqlens
    for pages, whole in zip(kept.layers, kept.written_at_once(), strict=True):
        found, lse = flashmla.dense_decode(q, pages, kept.cache.block_table, lengths, kv_format=kept.kv_format)
        wanted, wanted_lse = flashmla.dense_decode(q, whole, table, lengths, kv_format=kept.kv_format)
        assert torch.isfinite(found).all()
        assert torch.equal(found, wanted)
        assert torch.equal(lse, wanted_lse)


@pytest.mark.parametrize("kept", SPARSE, indirect=True)
def test_sparse_decode_attends_what_was_written(kept):
    q = kept.made(3, 1, HEADS, kept.columns)
    chosen = torch.stack([
        torch.randperm(int(length), generator=kept.draw)[:TOPK] for length in kept.cache.cache_seqlens.tolist()
    ]).to(kept.device)  # fmt: skip
    page = kept.cache.block_table.long().gather(1, chosen // PAGE)
    slots = (page * PAGE + chosen % PAGE).int()[:, None]
    first = torch.arange(3, device=kept.device)[:, None] * TABLE * PAGE
    for pages, whole in zip(kept.layers, kept.written_at_once(), strict=True):
        found, lse = flashmla.sparse_decode(q, pages, slots, kv_format=kept.kv_format)
        wanted, wanted_lse = flashmla.sparse_decode(q, whole, (first + chosen).int()[:, None], kv_format=kept.kv_format)
        assert torch.isfinite(found).all()
        assert torch.equal(found, wanted)
        assert torch.equal(lse, wanted_lse)
