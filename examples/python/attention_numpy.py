"""A layer of Multi-head Latent Attention in NumPy: projections, RoPE, a paged cache, and what is absorbed where.

Two sequences: their prompts in one step, then a token each. The same rows come from keys and values of every head.
"""

import numpy as np

import flashmla

rng = np.random.default_rng(0)
hidden, heads, rank, d_nope, d_rope, d_v, q_rank = 256, 16, 512, 128, 64, 128, 192  # DeepSeek V3 but for its width


def weight(rows: int, columns: int) -> np.ndarray:
    return rng.standard_normal((rows, columns), np.float32) * columns**-0.5


q_a, q_b = weight(q_rank, hidden), weight(heads * (d_nope + d_rope), q_rank)
kv_a, kv_b = weight(rank + d_rope, hidden), weight(heads * (d_nope + d_v), rank)
o = weight(hidden, heads * d_v)
w_uk, w_uv = np.split(kv_b.reshape(heads, d_nope + d_v, rank), [d_nope], axis=1)  # views: (heads, d_nope or d_v, rank)


def norm(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def rope(x: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Pairs of columns (2i, 2i + 1) of x (tokens, ..., d_rope) turn with the position."""
    angles = positions[:, None] * 10000.0 ** (-np.arange(0, d_rope, 2) / d_rope)
    turns = np.exp(1j * angles).reshape(len(x), *(1,) * (x.ndim - 2), -1)
    return ((x[..., 0::2] + 1j * x[..., 1::2]) * turns).view(np.float64).astype(np.float32)


def project(x: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of tokens (tokens, hidden): queries without and with RoPE, latents, and the RoPE columns of keys."""
    q = (norm(x @ q_a.T) @ q_b.T).reshape(len(x), heads, d_nope + d_rope)
    kv = x @ kv_a.T
    turned = rope(q[..., d_nope:], positions), rope(kv[:, rank:], positions)
    return q[..., :d_nope], turned[0], norm(kv[:, :rank]), turned[1]


def attention(x: np.ndarray, context: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The layer for sequences that have `context` tokens in the cache and get `new` more, x, sequence by sequence."""
    offsets = np.concatenate([[0], np.cumsum(new)]).astype(np.int32)
    sequence = np.repeat(np.arange(len(new)), new)
    positions = np.arange(len(x)) - offsets[sequence] + context[sequence]
    slots = block_table[sequence, positions // 64].astype(np.int64) * 64 + positions % 64
    q_nope, q_rope, latent, k_rope = project(x, positions)
    flashmla.append_kv(kv_cache, latent, k_rope, slots)
    q = np.concatenate([np.einsum("thn,hnr->thr", q_nope, w_uk), q_rope], axis=-1)  # W_UK goes to the query
    ragged = {"cu_seqlens_q": offsets, "max_seqlen_q": int(new.max())}
    lengths = (context + new).astype(np.int32)
    scale = (d_nope + d_rope) ** -0.5
    out, _ = flashmla.dense_decode(q, kv_cache, block_table, lengths, causal=True, softmax_scale=scale, **ragged)
    return np.einsum("thr,hvr->thv", out, w_uv).reshape(len(x), -1) @ o.T  # W_UV to the result


kv_cache = np.empty((8, 64, 1, rank + d_rope), np.float32)
block_table = np.array([[5, 2, 7], [1, 4, 0]], np.int32)
prompts = [rng.standard_normal((count, hidden), np.float32) for count in (100, 30)]
tokens = rng.standard_normal((2, hidden), np.float32)
first = attention(np.concatenate(prompts), np.array([0, 0]), np.array([100, 30]))
second = attention(tokens, np.array([100, 30]), np.array([1, 1]))
print("prompts:", first.shape, "one token more:", second.shape)

# Sequence 0 with keys and values of every head.
x = np.concatenate([prompts[0], tokens[:1]])
q_nope, q_rope, latent, k_rope = project(x, np.arange(101))
keys, values = np.einsum("tr,hnr->thn", latent, w_uk), np.einsum("tr,hvr->thv", latent, w_uv)
logits = np.einsum("shn,thn->hst", q_nope, keys) + np.einsum("shr,tr->hst", q_rope, k_rope)
logits = np.where(np.tri(101, dtype=bool), logits * (d_nope + d_rope) ** -0.5, -np.inf)
weights = np.exp(logits - logits.max(-1, keepdims=True))
weights /= weights.sum(-1, keepdims=True)
expected = np.einsum("hst,thv->shv", weights, values).reshape(101, -1) @ o.T
difference = np.abs(np.concatenate([first[:100], second[:1]]) - expected).max()
print("largest difference:", difference)
assert difference < 1e-4
