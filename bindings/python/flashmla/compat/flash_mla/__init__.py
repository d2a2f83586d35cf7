"""The package `flash_mla` as FlashMLA lays it out: what callers use is here and in its module `flash_mla_interface`."""

from flashmla.compat.flash_mla import flash_mla_interface
from flashmla.compat.flash_mla.flash_mla_interface import (
    FlashMLASchedMeta,
    flash_attn_varlen_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
    flash_mla_sparse_fwd,
    flash_mla_with_kvcache,
    get_mla_decoding_metadata,
    get_mla_metadata,
)

__version__ = "1.0.0"
"""The peer's, whose interface this is; that of the package behind it is `flashmla.__version__`."""

__all__ = [
    "FlashMLASchedMeta",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_mla_interface",
    "flash_mla_sparse_fwd",
    "flash_mla_with_kvcache",
    "get_mla_decoding_metadata",
    "get_mla_metadata",
]
