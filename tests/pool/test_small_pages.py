"""Pages of a few tokens, on every device: sequences of a pool are attended by its table and lengths, and by slots, when
they have shared prefixes, copied on write, been cut, and been swapped into other pages than before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import compare
import flashmla
from ops.dense_decode import oracle as dense_oracle
from ops.sparse_decode import oracle as sparse_oracle

torch = pytest.importorskip("torch")

SEQUENCES, TOKENS, HEADS, D_QK, TOPK = 3, 64, 16, 576, 48


class Pool:
    """A pool of one layer, and of each sequence the rows that were written."""

    def __init__(self, page_size: int, device: str) -> None:
        self.device, self.draw = device, torch.Generator().manual_seed(11)
        # no numbers, so that what is read must have been written
        shape = (4 * TOKENS // page_size, page_size, 1, D_QK)
        self.layer = torch.full(shape, float("nan"), dtype=torch.bfloat16, device=device)
        size = flashmla.PagedKVCache.bytes_of_block([self.layer])
        host = torch.zeros(TOKENS // page_size, size, dtype=torch.uint8, pin_memory=device == "cuda")
        self.cache = flashmla.PagedKVCache([self.layer], max_seqs=SEQUENCES, max_seq_len=TOKENS, host_pool=host)
        self.rows: dict[int, Any] = {}

    def made(self, *shape: int) -> Any:
        return torch.randn(*shape, generator=self.draw).to(torch.bfloat16)

    def begin(self, rows: Any) -> int:
        """A sequence of the prompt of these rows: of the same tokens they are the same, whoever writes them."""
        prompt = list(range(len(rows)))
        name, cached = self.cache.allocate(prompt)
        self.rows[name] = rows[:cached]
        self.append({name: len(rows) - cached}, rows[cached:])
        self.cache.commit(name, prompt)
        return name

    def append(self, counts: dict[int, int], rows: Any = None) -> None:
        total = self.cache.append([*counts], [*counts.values()])
        rows = self.made(total, D_QK) if rows is None else rows
        flashmla.append_kv(self.layer, rows.to(self.device), None, self.cache.slot_mapping[:total])
        for name, part in zip(counts, rows.split([*counts.values()]), strict=True):
            self.rows[name] = torch.cat([self.rows[name], part])

    def whole(self) -> np.ndarray:
        """The rows in float64 by row of the table, zeros behind them."""
        made = np.zeros((SEQUENCES, TOKENS, D_QK))
        for name, rows in self.rows.items():
            made[self.cache.row(name), : len(rows)] = rows.double().numpy()
        return made


@pytest.fixture(params=[1, 2, 4])
def pool(request, device) -> Pool:
    it = Pool(request.param, device)
    prompt = it.made(37, D_QK)
    first, second = it.begin(prompt), it.begin(prompt)
    assert it.cache.usage().shared == 36 // request.param
    third = it.cache.fork(first)
    it.rows[third] = it.rows[first]
    it.append({first: 3, second: 20, third: 5})
    it.cache.truncate(second, 41)
    it.rows[second] = it.rows[second][:41]
    before = it.cache.blocks(second)
    it.cache.swap_out(second)
    it.append({third: 9})  # in pages that the swap has left, too
    it.cache.swap_in(second)
    it.append({second: 1, first: 2})
    assert it.cache.blocks(second) != before
    return it


def check(found: tuple, wanted: tuple, operation: str, device: str) -> None:
    bound = compare.tolerance(operation, "bfloat16").on("gpu" if device == "cuda" else "cpu")
    out, lse = (tensor.double().cpu().numpy() for tensor in found)
    compare.check_out(out, wanted[0], bound)
    compare.check_lse(lse, wanted[1], bound)


def test_dense_decode_attends_by_table_and_lengths(pool):
    q, lengths = pool.made(SEQUENCES, 1, HEADS, D_QK), pool.cache.cache_seqlens
    found = flashmla.dense_decode(q.to(pool.device), pool.layer, pool.cache.block_table, lengths)
    table = np.arange(SEQUENCES)[:, None]  # of pages that hold all of a sequence
    wanted = dense_oracle.dense_decode(q.double().numpy(), pool.whole()[:, :, None], table, lengths.tolist())
    check(found, wanted, "dense_decode", pool.device)


def test_sparse_decode_attends_by_slots(pool):
    q, page_size = pool.made(SEQUENCES, 1, HEADS, D_QK), pool.cache.page_size
    chosen = torch.full((SEQUENCES, TOPK), -1)
    for row, length in enumerate(pool.cache.cache_seqlens.tolist()):
        tokens = torch.randperm(length, generator=pool.draw)[: TOPK - 8]
        chosen[row, : len(tokens)] = tokens
    page = pool.cache.block_table.cpu().long().gather(1, chosen.clamp(min=0) // page_size)
    slots = torch.where(chosen < 0, -1, page * page_size + chosen % page_size).int()
    found = flashmla.sparse_decode(q.to(pool.device), pool.layer, slots[:, None].to(pool.device))
    own = np.where(chosen < 0, -1, np.arange(SEQUENCES)[:, None] * TOKENS + chosen.numpy())
    selection = sparse_oracle.Selection(pool.whole().reshape(-1, D_QK), own, np.full(SEQUENCES, TOPK))
    out, lse = sparse_oracle.sparse_decode(q[:, 0].double().numpy(), [selection])
    check(found, (out[:, None], lse[:, :, None]), "sparse_decode", pool.device)
