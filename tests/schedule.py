"""Tiles and the schedule in NumPy, from their definition in libflashmla/src/internal.h (fm_tiling, fm_cut).

What the host scheduler, the device scheduler and the launcher are compared with; shares no code with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Limits:
    """What a backend gives the tiling: fm_backend_limits."""

    block_rows: int
    max_cluster: int
    workers: int
    start_overhead: int
    split_overhead: int


def hopper(processors: int) -> Limits:
    """The limits of libflashmla/src/cuda/launch.c."""
    return Limits(block_rows=64, max_cluster=2, workers=processors, start_overhead=4, split_overhead=8)


@dataclass(frozen=True)
class Tiling:
    """How the query rows of a call become tiles, and into how many parts the work is cut."""

    group: int
    block_heads: int
    block_tokens: int
    head_chunks: int
    cluster: int
    tiles_per_head: int
    columns: int  # tiles of a request
    num_tiles: int
    num_parts: int


def ceil(a: int, b: int) -> int:
    return -(-a // b)


def tile(limits: Limits, *, batch: int, s_q: int, h_q: int, h_kv: int, max_blocks: int, num_splits: int) -> Tiling:
    group = h_q // h_kv
    block_heads = min(group, limits.block_rows)
    block_tokens = min(s_q, limits.block_rows // block_heads)
    head_chunks = ceil(group, block_heads)
    blocks = ceil(s_q, block_tokens) * head_chunks
    cluster = min(limits.max_cluster, blocks)
    tiles_per_head = ceil(blocks, cluster)
    columns = h_kv * tiles_per_head
    num_tiles = batch * columns
    if num_splits:
        num_parts = num_tiles * num_splits
    else:
        num_parts = min(max(1, limits.workers // cluster), num_tiles * (max_blocks + limits.start_overhead))
    return Tiling(group, block_heads, block_tokens, head_chunks, cluster, tiles_per_head, columns, num_tiles, num_parts)


def pages(lengths, max_blocks: int, page_size: int) -> np.ndarray:
    clamped = np.clip(np.asarray(lengths, np.int64), 0, max_blocks * page_size)
    return -(-clamped // page_size)


def cuts(limits: Limits, tiling: Tiling, n: np.ndarray, num_splits: int) -> tuple[np.ndarray, np.ndarray]:
    """cut[num_parts + 1] as pairs (tile, page), and the prefix sums of the costs, for requests of n pages."""
    batch, parts, tiles = len(n), tiling.num_parts, tiling.num_tiles
    before = np.concatenate([[0], np.cumsum(n + limits.start_overhead)])
    at = np.concatenate([column * before[-1] + before[:-1] for column in range(tiling.columns)])
    total = tiling.columns * before[-1]
    end = np.array([[tiles, 0]])
    w = np.arange(parts)
    if num_splits:
        tile_of = w // num_splits
        return np.concatenate([np.stack([tile_of, w % num_splits * n[tile_of % batch] // num_splits], 1), end]), before
    per_part = ceil(tiles, parts)
    share = ceil(int(total), parts)
    edges = np.append(at, total)[np.minimum(np.arange(parts + 1) * per_part, tiles)]
    if np.diff(edges).max() <= share + limits.start_overhead + limits.split_overhead:
        whole = np.minimum(w * per_part, tiles)
        return np.concatenate([np.stack([whole, np.zeros_like(whole)], 1), end]), before
    position = w * share
    found = np.searchsorted(at, position, side="right") - 1
    page = np.maximum(0, position - at[found] - limits.start_overhead)
    even = np.where((position < total)[:, None], np.stack([found, page], 1), end)
    return np.concatenate([even, end]), before


def read(buffer: np.ndarray, tiling: Tiling, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts and prefix sums out of the bytes of a plan's buffer."""
    cut_bytes = 8 * (tiling.num_parts + 1)
    costs = ceil(cut_bytes, 16) * 16
    found = buffer[:cut_bytes].view(np.int32).reshape(-1, 2)
    return found, buffer[costs : costs + 8 * (batch + 1)].view(np.int64)
