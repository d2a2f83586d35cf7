"""One decode step with NumPy arrays on the CPU: two requests of different length over a paged cache."""

import numpy as np

import flashmla

rng = np.random.default_rng(0)
num_blocks, page_size, heads = 16, 64, 8
kv_cache = rng.standard_normal((num_blocks, page_size, 1, 576), np.float32)
q = rng.standard_normal((2, 1, heads, 576), np.float32)  # (batch, s_q, h_q, d_qk)

cache_seqlens = np.array([100, 300], np.int32)
block_table = np.zeros((2, 5), np.int32)  # as many columns as the longest request has pages
block_table[0, :2] = [3, 7]
block_table[1, :5] = [0, 1, 12, 5, 9]

out, lse = flashmla.dense_decode(q, kv_cache, block_table, cache_seqlens)
print(out.shape, out.dtype, lse.shape, lse.dtype)

# The same attention of request 0, written with NumPy.
keys = kv_cache[block_table[0]].reshape(-1, 576)[:100]
weights = np.exp(q[0, 0] @ keys.T * 576**-0.5)
expected = weights @ keys[:, :512] / weights.sum(1, keepdims=True)
print("largest difference:", np.abs(out[0, 0] - expected).max())
