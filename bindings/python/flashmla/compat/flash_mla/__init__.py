"""The package `flash_mla` as FlashMLA lays it out: what callers use is here and in its module `flash_mla_interface`."""

from flashmla.compat.flash_mla import flash_mla_interface
from flashmla.compat.flash_mla.flash_mla_interface import FlashMLASchedMeta, flash_mla_with_kvcache, get_mla_metadata

__all__ = ["FlashMLASchedMeta", "flash_mla_interface", "flash_mla_with_kvcache", "get_mla_metadata"]
