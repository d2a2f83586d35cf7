"""Multi-head Latent Attention (MLA) kernels for any DLPack tensor: torch, CuPy, JAX, NumPy.

>>> out, lse = flashmla.dense_decode(q, kv_cache, block_table, cache_seqlens)  # doctest: +SKIP
"""

from flashmla._info import info
from flashmla._library import VERSION as __version__  # noqa: N811 - the name that Python looks for
from flashmla.errors import ABIMismatchError, DeviceError, FlashMLAError, InvalidArgumentError, UnsupportedError
from flashmla.ops import Plan, dense_decode, dense_decode_workspace_size, plan_decode, plan_decode_size

__all__ = [
    "ABIMismatchError",
    "DeviceError",
    "FlashMLAError",
    "InvalidArgumentError",
    "Plan",
    "UnsupportedError",
    "__version__",
    "dense_decode",
    "dense_decode_workspace_size",
    "info",
    "plan_decode",
    "plan_decode_size",
]
