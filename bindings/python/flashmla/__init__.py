"""Multi-head Latent Attention (MLA) kernels for any DLPack tensor: torch, CuPy, JAX, NumPy.

>>> out, lse = flashmla.dense_decode(q, kv_cache, block_table, cache_seqlens)  # doctest: +SKIP
"""

from flashmla._dense_decode import dense_decode, dense_decode_workspace_size
from flashmla._info import info, last_kernel, read_environment
from flashmla._library import VERSION as __version__  # noqa: N811 - the name that Python looks for
from flashmla._merge_states import merge_states
from flashmla._plan import Plan
from flashmla._plan_decode import plan_decode, plan_decode_size
from flashmla._prepared import Prepared, prepare
from flashmla.errors import ABIMismatchError, DeviceError, FlashMLAError, InvalidArgumentError, UnsupportedError

__all__ = [
    "ABIMismatchError",
    "DeviceError",
    "FlashMLAError",
    "InvalidArgumentError",
    "Plan",
    "Prepared",
    "UnsupportedError",
    "__version__",
    "dense_decode",
    "dense_decode_workspace_size",
    "info",
    "last_kernel",
    "merge_states",
    "plan_decode",
    "plan_decode_size",
    "prepare",
    "read_environment",
]
