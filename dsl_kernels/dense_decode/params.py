"""Parameters of dense_decode: see core/params.py."""

from dsl_kernels.core import schedule_params as shared
from dsl_kernels.core.params import Param

LOG_INVERSE = 16  # with it ceil(2^16 / n) gives the quotients by n < 64 of all numbers below 1,024
CONSTANTS = shared.CONSTANTS | {"LOG_INVERSE": LOG_INVERSE}

PARAMS = (
    Param(
        "tma_q",
        "tensormap",
        "latent columns of q as (d, head in group, token, KV head, request); box of one row block",
        element="q",
    ),
    Param("tma_q_rope", "tensormap", "likewise its RoPE columns, where there are any", element="q"),
    Param("tma_kv", "tensormap", "kv_cache as (d, row, head, block); box of box_rows rows", element="cache"),
    Param("block_table", "const int32_t*", "page numbers"),
    *shared.LENGTHS,
    shared.CUTS,
    shared.PARTIAL,
    shared.PARTIAL_FACTS,
    *shared.OUTPUT,
    Param("block_table_stride", "int64_t", "entries between requests"),
    Param("scale_log2", "float", "softmax_scale * log2(e)"),
    Param("max_blocks", "int32_t", "columns of the block table"),
    Param("causal", "int32_t", "0 or 1"),
    Param("kv_policy", "int64_t", "L2 cache policy of the loads of KV"),
    *shared.QUERIES,
    *shared.TILING,
    *shared.DIVISORS,
    shared.SLOTS,
    # where a unit of 64 tokens lies in pages of another size
    Param("page_size", "int32_t", "tokens of a page"),
    Param("whole_pages", "int32_t", "pages in a unit: 64 / page_size"),
    Param("rows_beyond", "int32_t", "rows of a unit beyond them: 64 % page_size"),
    Param("boxes", "int32_t", "boxes of a unit that one block of the cluster loads: 64 / cluster / box_rows"),
    Param("box_rows", "int32_t", "rows of a box: the largest power of two that divides page_size and 64 / cluster"),
    # context parallelism
    *shared.SHARD,
    shared.WINDOW,
    # pages again
    Param("page_inverse", "int32_t", "ceil(2^LOG_INVERSE / page_size) for pages of fewer than 64 tokens; else 0"),
    Param("by_page", "int64_t", "divides by page_size"),
    *shared.INVARIANT,
    # the cache as loaders see it that gather rows
    Param("cache", "const void*", "pages", 16, "cache"),
    Param("block_step", "int64_t", "bytes between pages"),
    Param("row_step", "int64_t", "bytes between the tokens of a page"),
    Param("head_step", "int64_t", "bytes between KV heads"),
    Param("num_blocks", "int32_t", "pages of the cache"),
    Param("scales_at", "int64_t", "byte of a page at which the scales of its first token are"),
    Param("scales_step", "int32_t", "bytes between the scales of a page's tokens"),
    Param("descale_k", "const float*", "what all codes of a cache without scales are multiplied with, or null: 1"),
    # Q as codes, of which the map sees two as an element
    Param("q_coded", "int32_t", "1: Q is codes; 0"),
    Param("descale_q", "const float*", "what all codes of Q are multiplied with, or null: 1"),
    Param("rope_bytes", "int32_t", "of the RoPE part of a row of the cache; of formats with scales any number"),
)
