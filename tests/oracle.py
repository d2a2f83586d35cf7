"""The reference: attention in float64, written from its definition. No tiles, no splits, no running maximum.

Imports NumPy only, and shares nothing with the library it judges.
Definition: DeepSeek-V2, arXiv 2405.04434, section 2.1 (latent attention with absorbed projections).
"""

from __future__ import annotations

import numpy as np

D_V = 512  # the value of a token is the first 512 components of its latent


def dense_decode(q, kv_cache, block_table, cache_seqlens, softmax_scale=None, causal=False):
    """Attention of every query row over its paged cache: out (b, s_q, h_q, d_v), lse (b, h_q, s_q), both float64.

    A slot that no query token attends is never read, so it may hold NaN.
    """
    batch, s_q, h_q, d_qk = q.shape
    page_size, h_kv = kv_cache.shape[1:3]
    capacity = block_table.shape[1] * page_size
    scale = d_qk**-0.5 if softmax_scale is None else float(np.float32(softmax_scale))
    group = h_q // h_kv
    out = np.zeros((batch, s_q, h_q, D_V))
    lse = np.full((batch, h_q, s_q), np.inf)
    for i in range(batch):
        length = min(max(int(cache_seqlens[i]), 0), capacity)
        keys = gather(kv_cache, block_table[i], length)
        queries = q[i].astype(np.float64)
        for s in range(s_q):
            attended = length - (s_q - 1 - s) if causal else length
            if attended <= 0:
                continue
            for g in range(h_kv):
                heads = slice(g * group, (g + 1) * group)
                k = keys[:attended, g]
                logits = scale * (queries[s, heads] @ k.T)
                top = logits.max(axis=1, keepdims=True)
                weights = np.exp(logits - top)
                total = weights.sum(axis=1, keepdims=True)
                out[i, s, heads] = (weights / total) @ k[:, :D_V]
                lse[i, heads, s] = (np.log(total) + top)[:, 0]
    return out, lse


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
