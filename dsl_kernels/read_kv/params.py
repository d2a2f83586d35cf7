"""Parameters of read_kv: see core/params.py. Steps and places are in bytes, strides in elements."""

from dsl_kernels.core.params import Param

BLOCKS = 8  # of a processor at once: as many as have registers enough
CONSTANTS = {"READ_BLOCKS": BLOCKS}

PARAMS = (
    Param("pages", "const int32_t*", "the cache", 16),
    Param("out", "int32_t*", "the rows", 16),
    Param("descale", "const float*", "the one scale, or null: 1"),
    Param("block_table", "const int32_t*", "page numbers of each request"),
    Param("cu_seqlens", "const int32_t*", "first row of each request, and the number of all"),
    Param("seq_starts", "const int32_t*", "first token that is read of each request, or null: 0"),
    Param("block_table_stride", "int64_t", "between requests"),
    Param("cu_seqlens_stride", "int64_t", "between requests"),
    Param("seq_starts_stride", "int64_t", "between requests"),
    Param("out_step", "int64_t", "from row to row"),
    Param("block_step", "int64_t", "from page to page"),
    Param("row_step", "int64_t", "from row to row in a page"),
    Param("scales_at", "int64_t", "in a page"),
    Param("scales_step", "int32_t", "from the scales of a token to those of the next"),
    Param("num_blocks", "int32_t", "pages of the cache"),
    Param("page_size", "int32_t", "tokens of a page"),
    Param("max_blocks", "int32_t", "pages of a request in the table"),
    Param("batch", "int32_t", "requests"),
    Param("gathers", "int32_t", "1: by the table, 0: row i is that of slot i"),
    Param("num_tokens", "int32_t", "rows of out"),
    Param("copied", "int32_t", "1: not quantised, 0: as follows"),
    Param("encoded", "int32_t", "1: codes with one scale, 0: as follows"),
    Param("row_bytes", "int32_t", "of a row of out"),
    Param("columns", "int32_t", "of a row"),
    Param("quantized", "int32_t", "columns that are codes"),
    Param("rope_at", "int32_t", "the other columns in a row"),
    Param("tile_shift", "int32_t", "log2 of lanes, 16 columns each, that share a scale"),
    Param("byte_scales", "int32_t", "1: scales are float8_e8m0fnu, 0: float32"),
    Param("dtype", "int32_t", "of out: 0 bfloat16, 1 float16, 2 float32"),
)
