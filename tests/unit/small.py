"""One small decode call as NumPy arrays, for tests of the layer around the kernels."""

import ml_dtypes
import numpy as np

import compare
from ops.dense_decode import oracle

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def inputs(dtype="float32", lengths=(5, 100), s_q=2, h_q=4, d_qk=576):
    """q, kv_cache, block_table, cache_seqlens: pages of 64, two a request, one KV head."""
    draw = np.random.default_rng(7)
    batch = len(lengths)
    q = draw.standard_normal((batch, s_q, h_q, d_qk)).astype(DTYPES[dtype])
    kv_cache = draw.standard_normal((2 * batch, 64, 1, d_qk)).astype(DTYPES[dtype])
    block_table = np.arange(2 * batch, dtype=np.int32)[::-1].reshape(batch, 2).copy()
    return q, kv_cache, block_table, np.array(lengths, np.int32)


def check(out, lse, arrays, **options):
    """The result is that of the oracle; out and lse as NumPy arrays."""
    want_out, want_lse = oracle.dense_decode(*(np.asarray(array) for array in arrays), **options)
    tolerance = compare.tolerance("dense_decode", out.dtype.name)
    assert out.shape == want_out.shape
    assert lse.shape == want_lse.shape
    assert lse.dtype == np.float32
    assert compare.relative_error(out.astype(np.float64), want_out) <= tolerance.norm
    np.testing.assert_allclose(lse, want_lse, rtol=tolerance.lse_relative, atol=tolerance.lse_absolute)
