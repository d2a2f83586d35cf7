"""The attention of the serving demo: dense, or over the tokens that a toy indexer selects."""

from __future__ import annotations

import dataclasses

import numpy as np

import flashmla
import reference
from arrays import Array
from batcher import PAGE_SIZE, Batcher, pages_for

INDEX_COLUMNS = 32  # of a latent, which the toy indexer takes for its key


@dataclasses.dataclass
class DenseCall:
    """Arguments and results of one layer's attention."""

    query: Array
    cache: Array
    block_table: Array
    cache_seqlens: Array
    plan: flashmla.Plan
    out: Array
    lse: Array

    def again(self) -> None:
        tensors = self.query, self.cache, self.block_table, self.cache_seqlens
        flashmla.dense_decode(*tensors, plan=self.plan, out=self.out, lse=self.lse)

    def expected(self, arrays: object, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """out and lse of these requests in float64. Only pages in use travel to the host and get new numbers there."""
        host, taken = arrays.to_host, arrays.from_host(rows)
        lengths = host(self.cache_seqlens[taken])
        table = host(self.block_table[taken])[:, : pages_for(int(lengths.max()))]
        used = np.arange(table.shape[1]) < -(-lengths[:, None] // PAGE_SIZE)
        pages, numbers = np.unique(table[used], return_inverse=True)
        renumbered = np.full(table.shape, -1)
        renumbered[used] = numbers
        kv_cache = host(self.cache[arrays.from_host(pages)])
        return reference.dense_decode(host(self.query[taken]), kv_cache, renumbered, lengths)


@dataclasses.dataclass
class SparseCall:
    """Arguments and results of one layer's attention."""

    query: Array
    cache: Array
    slots: Array
    plan: flashmla.Plan
    out: Array
    lse: Array

    def again(self) -> None:
        flashmla.sparse_decode(self.query, self.cache, self.slots, plan=self.plan, out=self.out, lse=self.lse)

    def expected(self, arrays: object, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """out and lse of these requests in float64. Only the selected tokens travel to the host."""
        host, taken = arrays.to_host, arrays.from_host(rows)
        slots = host(self.slots[taken])[:, 0]
        named = np.maximum(slots, 0).reshape(-1)
        pages, places = (arrays.from_host(part) for part in np.divmod(named, PAGE_SIZE))
        indices = np.where(slots < 0, -1, np.arange(slots.size).reshape(slots.shape))
        selection = reference.Selection(host(self.cache[pages, places, 0]), indices, np.full(len(rows), slots.shape[1]))
        out, lse = reference.sparse_decode(host(self.query[taken])[:, 0], [selection])
        return out[:, None], lse[..., None]


class Dense:
    """Every token attends the whole sequence; the layers of a step share a plan."""

    def __init__(self, arrays: object) -> None:
        self._arrays = arrays

    def tokens(self, batcher: Batcher) -> int:
        """That a step attends in each layer."""
        return int(batcher.cache_seqlens.sum())

    def begin(self, batcher: Batcher) -> None:
        """A step, with one token more in every sequence."""
        self._table = self._arrays.from_host(batcher.block_table)
        self._lengths = self._arrays.from_host(batcher.cache_seqlens)
        self._plan: flashmla.Plan | None = None

    def attend(self, query: Array, cache: Array, _hidden: Array) -> DenseCall:
        tensors = query, cache, self._table, self._lengths
        if self._plan is None:
            self._plan = flashmla.plan_decode(*tensors)
        return DenseCall(*tensors, self._plan, *flashmla.dense_decode(*tensors, plan=self._plan))


class Sparse:
    """Every token attends the `topk` tokens whose keys are most like its own; the layers of a step share a plan, though
    each selects for itself.

    A stand-in for DeepSeek's lightning indexer, which has small keys and heads of its own, learnt for the purpose.
    """

    def __init__(self, arrays: object, topk: int) -> None:
        self._arrays, self._topk = arrays, topk

    def tokens(self, batcher: Batcher) -> int:
        """That a step attends in each layer."""
        return int(np.minimum(batcher.cache_seqlens, self._topk).sum())

    def begin(self, batcher: Batcher) -> None:
        """A step, with one token more in every sequence."""
        table = batcher.block_table[:, : pages_for(int(batcher.cache_seqlens.max()))]
        position = np.arange(table.shape[1] * PAGE_SIZE)
        slots = np.maximum(table, 0).astype(np.int64).repeat(PAGE_SIZE, 1) * PAGE_SIZE + position % PAGE_SIZE
        slots[position >= batcher.cache_seqlens[:, None]] = -1
        self._slots, self._pages = self._arrays.from_host(slots), self._arrays.from_host(np.maximum(table, 0))
        self._rows = self._arrays.from_host(np.arange(len(batcher))[:, None])
        self._plan: flashmla.Plan | None = None

    def attend(self, query: Array, cache: Array, hidden: Array) -> SparseCall:
        xp, slots = self._arrays.xp, self._slots
        keys = self._arrays.float32(cache[:, :, 0, :INDEX_COLUMNS][self._pages])
        scores = (keys * hidden[:, None, None, :INDEX_COLUMNS]).sum(-1).reshape(slots.shape)
        scores = xp.where(slots < 0, -np.inf, scores)
        chosen = self._arrays.largest(scores, min(self._topk, slots.shape[1]))
        chosen = slots[self._rows, chosen][:, None]
        if self._plan is None:
            self._plan = flashmla.plan_sparse_decode(query, chosen)
        result = flashmla.sparse_decode(query, cache, chosen, plan=self._plan)
        return SparseCall(query, cache, chosen, self._plan, *result)
