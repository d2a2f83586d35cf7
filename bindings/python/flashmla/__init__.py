"""Multi-head Latent Attention (MLA) kernels for any DLPack tensor: torch, CuPy, JAX, NumPy.

The examples of the functions use these arrays: 2 requests of 100 and 7 tokens, 16 query heads, pages of 64 tokens.

>>> import numpy, flashmla
>>> random = numpy.random.default_rng(0)
>>> q = random.standard_normal((2, 1, 16, 576), dtype="float32")
>>> kv_cache = random.standard_normal((4, 64, 1, 576), dtype="float32")
>>> block_table = numpy.array([[2, 0], [3, 1]], "int32")
>>> cache_seqlens = numpy.array([100, 7], "int32")
>>> out, lse = flashmla.dense_decode(q, kv_cache, block_table, cache_seqlens)
"""

from flashmla._append_kv import append_kv
from flashmla._dense_decode import dense_decode, dense_decode_workspace_size
from flashmla._dequantize_kv import dequantize_kv
from flashmla._gather_kv import gather_kv
from flashmla._info import check_report, fail_next, info, last_kernel, read_environment
from flashmla._library import VERSION as __version__  # noqa: N811 - the name that Python looks for
from flashmla._merge_states import merge_states
from flashmla._metrics import metrics
from flashmla._on_error import Failure, Fallback, fallbacks, on_error
from flashmla._paged_cache import PagedKVCache
from flashmla._plan import Plan
from flashmla._plan_decode import plan_decode, plan_decode_size
from flashmla._plan_sparse_decode import plan_sparse_decode, plan_sparse_decode_size
from flashmla._pool_usage import PoolUsage
from flashmla._prepared import Prepared, prepare
from flashmla._profile import Profile, profile
from flashmla._quantize_kv import quantize_kv
from flashmla._sparse_decode import sparse_decode, sparse_decode_workspace_size
from flashmla._tuning import load_tuning
from flashmla.errors import (
    ABIMismatchError,
    DeviceError,
    FlashMLAError,
    InvalidArgumentError,
    PoolFullError,
    UnsupportedError,
)

__all__ = [
    "ABIMismatchError",
    "DeviceError",
    "Failure",
    "Fallback",
    "FlashMLAError",
    "InvalidArgumentError",
    "PagedKVCache",
    "Plan",
    "PoolFullError",
    "PoolUsage",
    "Prepared",
    "Profile",
    "UnsupportedError",
    "__version__",
    "append_kv",
    "check_report",
    "dense_decode",
    "dense_decode_workspace_size",
    "dequantize_kv",
    "fail_next",
    "fallbacks",
    "gather_kv",
    "info",
    "last_kernel",
    "load_tuning",
    "merge_states",
    "metrics",
    "on_error",
    "plan_decode",
    "plan_decode_size",
    "plan_sparse_decode",
    "plan_sparse_decode_size",
    "prepare",
    "profile",
    "quantize_kv",
    "read_environment",
    "sparse_decode",
    "sparse_decode_workspace_size",
]
