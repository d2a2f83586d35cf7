"""One decode step with JAX, on whichever device JAX uses.

JAX arrays never change once seen, so inputs are only read, outputs are new arrays, and the call waits for the result.
It is an eager call: it cannot be traced by jax.jit.
"""

import jax
import jax.numpy as jnp

import flashmla

batch, heads, num_blocks = 4, 16, 64
key_q, key_kv = jax.random.split(jax.random.key(0))
kv_cache = jax.random.normal(key_kv, (num_blocks, 64, 1, 576), jnp.bfloat16)
q = jax.random.normal(key_q, (batch, 1, heads, 576), jnp.bfloat16)
block_table = jnp.arange(num_blocks, dtype=jnp.int32).reshape(batch, -1)
cache_seqlens = jnp.array([1, 64, 500, 1000], jnp.int32)

out, lse = flashmla.dense_decode(q, kv_cache, block_table, cache_seqlens)
print(out.shape, out.dtype, lse[:, 0, 0])
