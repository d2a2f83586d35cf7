"""The reference: attention in float64, written from its definition. No tiles, no splits, no running maximum.

Imports NumPy only, and shares nothing with the library it judges.
Definition: DeepSeek-V2, arXiv 2405.04434, section 2.1 (latent attention with absorbed projections).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Components of a latent, and how many of its first ones are the value.
D_V = {576: 512, 512: 512, 320: 256, 288: 256, 160: 128, 1088: 1024}


class Shard(NamedTuple):
    """One shard of a cache whose tokens are dealt out to `world` of them, `interleave` at a time."""

    rank: int
    world: int
    interleave: int

    def global_tokens(self, count: int) -> np.ndarray:
        """The numbers, in the whole sequence, of the shard's first `count` tokens."""
        turns, places = np.divmod(np.arange(count), self.interleave)
        return (turns * self.world + self.rank) * self.interleave + places


def dense_decode(
    q,
    kv_cache,
    block_table,
    cache_seqlens,
    softmax_scale=None,
    causal=False,
    *,
    cu_seqlens_q=None,
    max_seqlen_q=None,
    shard=None,
    global_seqlens=None,
    sink=None,
    window=0,
    lse_base2=False,
    empty_lse=np.inf,
):
    """Attention of every query row over its paged cache: out (b, s_q, h_q, d_v), lse (b, h_q, s_q), both float64.

    With cu_seqlens_q: q (total_q, h_q, d_qk), out (total_q, h_q, d_v), lse (h_q, total_q); rows of no request are NaN,
    rows of several hold the last one's. A slot that no query token attends is never used, so it may hold NaN.
    `sink` (h_q,): logits that take part in the sums of the softmax for out, and have no value. `window`: of the tokens
    that a query token sees it attends the last so many; 0: all of them.
    """
    h_q, d_qk = q.shape[-2:]
    scale = d_qk**-0.5 if softmax_scale is None else float(np.float32(softmax_scale))
    out = np.full((*q.shape[:-1], D_V[d_qk]), np.nan)
    lse = np.full((h_q, len(q)) if q.ndim == 3 else (len(q), h_q, q.shape[1]), np.nan)
    for i in range(len(cache_seqlens)):
        length = min(max(int(cache_seqlens[i]), 0), block_table.shape[1] * kv_cache.shape[1])
        tokens = np.arange(length) if shard is None else shard.global_tokens(length)
        total = length if shard is None else max(int(global_seqlens[i]), 0)
        keys = gather(kv_cache, block_table[i], length)
        if cu_seqlens_q is None:
            out[i], lse[i] = attend(q[i], keys, tokens, total, scale, causal, window)
        else:
            rows = query_rows(cu_seqlens_q, i, len(q), max_seqlen_q)
            out[rows], lse[:, rows] = attend(q[rows], keys, tokens, total, scale, causal, window)
    empty = np.isposinf(lse)
    if sink is not None:
        with np.errstate(over="ignore"):
            share = 1 / (1 + np.exp(np.asarray(sink, np.float64)[:, None] - np.where(empty, 0, lse)))
        out *= np.swapaxes(np.where(empty, 0, share), -1, -2)[..., None]
    lse /= np.log(2) if lse_base2 else 1
    lse[empty] = empty_lse
    return out, lse


def query_rows(cu_seqlens_q, i, total_q, max_seqlen_q) -> slice:
    """The query tokens of request i; offsets outside [0, total_q] or out of order are clamped."""
    begin = min(max(int(cu_seqlens_q[i]), 0), total_q)
    end = min(max(int(cu_seqlens_q[i + 1]), begin), total_q)
    return slice(begin, min(end, begin + max_seqlen_q))


def gather(kv_cache, pages, length):
    """Rows 0 .. length-1 of one request as (length, h_kv, d_qk); a page outside the cache is a page of zero rows."""
    num_blocks, page_size, h_kv, d_qk = kv_cache.shape
    rows = np.zeros((length, h_kv, d_qk))
    for start in range(0, length, page_size):
        page = int(pages[start // page_size])
        if 0 <= page < num_blocks:
            used = min(page_size, length - start)
            rows[start : start + used] = kv_cache[page, :used].astype(np.float64)
    return rows


def attend(q, keys, tokens, total, scale, causal, window):
    """One request: queries (s_q, h_q, d_qk) over keys (n, h_kv, d_qk), which are these tokens of `total`, ascending."""
    s_q, h_q, d_qk = q.shape
    h_kv = keys.shape[1]
    group = h_q // h_kv
    queries = q.astype(np.float64)
    out = np.zeros((s_q, h_q, D_V[d_qk]))
    lse = np.full((h_q, s_q), np.inf)
    for s in range(s_q):
        attended = int(np.sum(tokens < (total - (s_q - 1 - s) if causal else total)))
        if attended == 0:
            continue
        for g in range(h_kv):
            heads = slice(g * group, (g + 1) * group)
            k = keys[max(0, attended - window) if window else 0 : attended, g]
            logits = scale * (queries[s, heads] @ k.T)
            top = logits.max(axis=1, keepdims=True)
            weights = np.exp(logits - top)
            sums = weights.sum(axis=1, keepdims=True)
            out[s, heads] = (weights / sums) @ k[:, : D_V[d_qk]]
            lse[heads, s] = (np.log(sums) + top)[:, 0]
    return out, lse
