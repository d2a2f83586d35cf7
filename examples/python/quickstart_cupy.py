"""One decode step with CuPy on a Hopper GPU, on a stream of its own."""

import cupy

import flashmla

batch, heads, num_blocks = 4, 16, 64
kv_cache = cupy.random.standard_normal((num_blocks, 64, 1, 576), dtype=cupy.float32).astype(cupy.float16)
q = cupy.random.standard_normal((batch, 1, heads, 576), dtype=cupy.float32).astype(cupy.float16)
block_table = cupy.arange(num_blocks, dtype=cupy.int32).reshape(batch, -1)
cache_seqlens = cupy.asarray([1, 64, 500, 1000], dtype=cupy.int32)
cupy.cuda.Device().synchronize()

with cupy.cuda.Stream(non_blocking=True) as stream:  # the current stream of CuPy is used
    out, lse = flashmla.dense_decode(q, kv_cache, block_table, cache_seqlens)
stream.synchronize()
print(out.shape, out.dtype, lse[:, 0, 0])
