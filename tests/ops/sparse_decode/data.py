"""The numbers of a call of sparse_decode, from its seed, and what the caches hold by the writers' oracle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import kv_pages
from attention import make_sink
from buffers import DTYPES
from kv_pages import DEAD, put_rows
from ops.sparse_decode.case import Cache, SparseCase

INDEX_LIMITS = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}


@dataclass
class Selected:
    """A cache, and what is selected from it."""

    kv_cache: np.ndarray
    indices: np.ndarray
    topk_length: np.ndarray | None
    descale_k: np.ndarray | None = None


@dataclass
class Data:
    """The numbers of a case as compact NumPy arrays; q has all columns."""

    q: np.ndarray
    caches: dict[str, Selected]  # by the prefix of their tensors' names
    attn_sink: np.ndarray | None
    cu_seqlens_q: np.ndarray | None

    def tensor(self, name: str) -> np.ndarray:
        """By the name of the argument."""
        for prefix, selected in self.caches.items():
            if name.startswith(prefix) and hasattr(selected, name.removeprefix(prefix)):
                return getattr(selected, name.removeprefix(prefix))
        return getattr(self, name)


def make_data(case: SparseCase) -> Data:
    """N(0, 1) queries and latents. What no query token attends holds NaN: slots, indices that do not count are those of
    such slots, or anything.
    """
    rng = np.random.default_rng(case.seed)
    q = rng.standard_normal((*case.tokens, case.h_q, case.d_qk), np.float32).astype(DTYPES[case.dtype])
    offsets = None
    if case.cu_seqlens_q is not None:
        offsets = np.array(case.cu_seqlens_q, np.int32)
        q[case.owners() == 0] = np.nan
    caches = {prefix: _selected(case, cache, prefix, rng) for prefix, cache in case.caches.items()}
    return Data(q, caches, make_sink(case.sink, case.h_q, rng), offsets)


def lengths_by_token(case: SparseCase, cache: Cache) -> np.ndarray:
    """How many of its indices count, for each query token as they lie behind one another; 0 for those of no request."""
    counts = np.zeros(case.tokens, int)
    for i in range(case.batch):
        (counts if case.cu_seqlens_q is not None else counts[i])[case.query_rows(i)] = cache.attended(i)
    return counts.reshape(-1)


def other_lengths(case: SparseCase) -> dict[str, np.ndarray]:
    """Other lengths and query offsets than the case's, where it has some, by the names of the tensors."""
    rng = np.random.default_rng(case.seed + 1)
    found = {
        f"{prefix}topk_length": rng.integers(-1, cache.topk + 2, case.batch, np.int32)
        for prefix, cache in case.caches.items()
        if cache.lengths is not None
    }
    if case.cu_seqlens_q is not None:
        found["cu_seqlens_q"] = np.sort(rng.integers(-1, case.total_q + 2, case.batch + 1, np.int32))
    return found


def _selected(case: SparseCase, cache: Cache, prefix: str, rng: np.random.Generator) -> Selected:
    shape = case.shapes()[f"{prefix}indices"]
    counts = lengths_by_token(case, cache)
    # Half of the slots are never selected by indices that count, and the others are all that these select.
    live = rng.permutation(cache.slots)[: max(1, cache.slots // 2)]
    indices = np.empty((len(counts), cache.topk), np.int64)
    for row, count in zip(indices, counts, strict=True):
        row[:] = np.resize(rng.permutation(live), cache.topk)
        again = rng.random(cache.topk) < case.repeated
        row[again] = rng.choice(row, int(again.sum())) if cache.topk else []
        row[count:] = rng.choice(np.arange(cache.slots), cache.topk - count)
    outside = _outside(cache, case.index_dtype)
    away = rng.random(indices.shape) < case.outside
    indices[away] = rng.choice(outside, int(away.sum()))
    counted = indices[np.arange(cache.topk) < counts[:, None]]
    used = np.unique(counted[(counted >= 0) & (counted < cache.slots)])
    kv_cache = _filled(case, cache, prefix, used, rng)
    lengths = None if cache.lengths is None else np.array(cache.lengths, np.int32)
    descale = None if cache.descale is None else np.array([cache.descale], np.float32)
    return Selected(kv_cache, indices.astype(DTYPES[case.index_dtype]).reshape(shape), lengths, descale)


def _outside(cache: Cache, dtype: str) -> np.ndarray:
    """Indices that select nothing."""
    low, high = INDEX_LIMITS[dtype]
    found = [-1, -1, cache.slots, cache.slots + 1, -cache.slots, low, high]
    if dtype == "int64":
        found += [2**32, 2**32 + 1, -(2**32), 2**63 - cache.slots]
    return np.array(found, np.int64)


def _filled(case: SparseCase, cache: Cache, prefix: str, used: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The cache with tokens in the slots that are used, every other byte DEAD."""
    name = f"{prefix}kv_cache"
    shape, dtype = case.shapes()[name], DTYPES[case.dtype_of(name)]
    rows = rng.standard_normal((len(used), case.d_qk), np.float32)
    kv_cache = np.full(int(np.prod(shape)) * dtype.itemsize, DEAD, np.uint8).view(dtype).reshape(shape)
    if cache.format is None:
        kv_cache.reshape(-1, case.d_qk)[used] = rows.astype(dtype)
        return kv_cache
    put_rows(cache.format, kv_cache.view(np.uint8), used, rows, rng)
    return kv_cache


def rows_of(cache: Cache, kv_cache: np.ndarray) -> np.ndarray:
    """The tokens of a cache in the order of their slots, (slots, d_qk) float64."""
    return kv_pages.rows_of(cache.format, kv_cache).reshape(cache.slots, -1)
