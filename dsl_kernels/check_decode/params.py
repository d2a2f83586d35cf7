"""Parameters of check_decode: see core/params.py."""

from dsl_kernels.core import finding_params
from dsl_kernels.core import schedule_params as shared
from dsl_kernels.core.params import Param

CONSTANTS = finding_params.CONSTANTS

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
    finding_params.FINDINGS,
)
