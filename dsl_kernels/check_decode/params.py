"""Parameters of check_decode: see core/params.py."""

from dsl_kernels.core import schedule_params as shared
from dsl_kernels.core.params import Param

# What is looked for, and the words of what is told of each: fm_value and fm_finding of the C core.
LENGTH, OFFSET, ORDER, COUNT, PAGE, GLOBAL_LENGTH = range(6)
VALUES = 6
FINDING_BYTES = 128
PLACE, WHAT, FOUND, CLAIMED, READY = range(5)
REPORTS = 8  # the host's, in a cache line of its own
CONSTANTS = {"CHECKED_VALUES": VALUES, "FINDING_BYTES": FINDING_BYTES}

PARAMS = (
    *shared.LENGTHS,
    Param("block_table", "const int32_t*", "page numbers, or null: they are not looked at"),
    Param("block_table_stride", "int64_t", "entries between requests"),
    Param("page_size", "int32_t", "tokens of a page"),
    Param("num_blocks", "int32_t", "pages of the cache"),
    *shared.QUERIES,
    Param("s_q", "int32_t", "with cu_seqlens_q: query tokens of a request at most"),
    Param("batch", "int32_t", "requests"),
    *shared.SHARD,
    shared.WINDOW,
    Param("causal", "int32_t", "0 or 1"),
    Param("findings", "int64_t*", "of the device: VALUES records of FINDING_BYTES, in memory of the host", 16),
)
