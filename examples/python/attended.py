"""What attention did in a step of the serving demo, and attention over the tokens that a toy indexer selects."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

import flashmla
import reference
from arrays import Array

INDEX_COLUMNS = slice(496, 528)  # of a row, which the toy indexer takes for its key: some turn with the position
TOKENS_AT_ONCE = 64  # of a prompt: their keys are gathered side by side


def places(counts: Sequence[int], lengths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """For each token of a step the number of its sequence, and how many tokens it may attend."""
    sequences = np.repeat(np.arange(len(counts)), counts)
    ends = [np.arange(length - count, length) + 1 for count, length in zip(counts, lengths, strict=True)]
    return sequences, np.concatenate(ends)


@dataclasses.dataclass
class Attended:
    """Arguments and results of one layer's attention."""

    q: Array  # (n, heads, d_qk)
    out: Array
    kv_cache: Array
    block_table: Array  # (batch, max_blocks)
    tokens: np.ndarray  # (n,): which of the step's tokens they are
    softmax_scale: float
    slots: Array | None = None  # (n, topk): those that were selected; None: all

    def keys(self, arrays: Any, token: int, sequence: int, length: int) -> np.ndarray:
        """The rows that a token attends, in float64. Only pages in use travel to the host."""
        page_size = self.kv_cache.shape[1]
        if self.slots is not None:
            slots = arrays.to_host(self.slots[token])
            pages, rows = np.divmod(slots[slots >= 0], page_size)
        else:
            table = arrays.to_host(self.block_table[sequence])
            pages, rows = table[np.arange(length) // page_size], np.arange(length) % page_size
        return arrays.to_host(self.kv_cache[arrays.from_host(pages), arrays.from_host(rows), 0])

    def expected(
        self, arrays: Any, token: int, sequence: int, length: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The token's output in float64, its query and the keys."""
        query = arrays.to_host(self.q[token])
        keys = self.keys(arrays, token, sequence, length)
        everything = reference.Selection(keys, np.arange(len(keys))[None], np.array([len(keys)]))
        if self.slots is not None:
            out, _ = reference.sparse_decode(query[None], [everything], self.softmax_scale)
        else:
            page = np.zeros((1, 1), np.int32)
            out, _ = reference.dense_decode(
                query[None, None], keys[None, :, None], page, [len(keys)], self.softmax_scale
            )
            out = out[0]
        return out[0], query, keys


class SparseAttention:
    """Every token of a step attends the `topk` tokens whose keys are most like its own, of those up to itself.

    A stand-in for DeepSeek's lightning indexer, which has small keys and heads of its own, learnt for the purpose. The
    layers of a step share a plan, though each selects for itself.
    """

    def __init__(
        self, arrays: Any, topk: int, block_table: Array, counts: Sequence[int], lengths: Sequence[int], page_size: int
    ) -> None:
        self._arrays, self._topk = arrays, topk
        sequences, ends = places(counts, lengths)
        width = -(-int(ends.max()) // page_size)
        self._pages = block_table[arrays.from_host(sequences)][:, :width]
        slots = self._pages[:, :, None] * page_size + arrays.from_host(np.arange(page_size))
        position = arrays.from_host(np.arange(width * page_size))
        beyond = position >= arrays.from_host(ends)[:, None]
        self._slots = arrays.xp.where(beyond, -1, slots.reshape(len(sequences), -1))
        self._plan: flashmla.Plan | None = None

    def __call__(self, q: Array, kv_cache: Array, softmax_scale: float) -> tuple[Array, Array]:
        """(tokens, heads, d_v) of q (tokens, heads, d_qk), and the slots that were selected."""
        chosen = self._select(self._arrays.float32(q[:, :, INDEX_COLUMNS]).sum(1), kv_cache)
        query, indices = q[:, None], chosen[:, None]
        self._plan = self._plan or flashmla.plan_sparse_decode(query, indices)
        options = {"softmax_scale": softmax_scale, "plan": self._plan, "return_lse": False}
        return flashmla.sparse_decode(query, kv_cache, indices, **options)[:, 0], chosen

    def _select(self, query: Array, kv_cache: Array) -> Array:
        keys, found = kv_cache[:, :, 0, INDEX_COLUMNS], []
        count = min(self._topk, self._slots.shape[1])
        for first in range(0, len(query), TOKENS_AT_ONCE):
            part = slice(first, first + TOKENS_AT_ONCE)
            slots = self._slots[part]
            scores = (self._arrays.float32(keys[self._pages[part]]) * query[part][:, None, None]).sum(-1)
            scores = self._arrays.xp.where(slots < 0, -np.inf, scores.reshape(slots.shape))
            rows = self._arrays.from_host(np.arange(len(slots))[:, None])
            found.append(slots[rows, self._arrays.largest(scores, count)])
        return self._arrays.xp.concatenate(found)
