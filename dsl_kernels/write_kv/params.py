"""Parameters of write_kv: see core/params.py. Steps and places are in bytes."""

from dsl_kernels.core.params import Param

DISTINCT, SEARCH, MARK, MARKED = range(4)  # how a token knows that no other one writes its slot, see kernel.py
BLOCKS = 8  # of a processor at once: as many as have registers enough
CONSTANTS = {
    "WRITE_DISTINCT": DISTINCT,
    "WRITE_SEARCH": SEARCH,
    "WRITE_MARK": MARK,
    "WRITE_MARKED": MARKED,
    "WRITE_MOST_SEARCHED": 512,  # tokens
    "WRITE_BLOCKS": BLOCKS,
}

PARAMS = (
    Param("pages", "int32_t*", "the cache", 16),
    Param("latent", "const int32_t*", "first columns of the tokens", 16),
    Param("rope", "const int32_t*", "columns behind them, or null", 16),
    Param("descale", "const float*", "the one scale, or null: 1"),
    Param("slots", "const int32_t*", "slot of each token, or null: its number"),
    Param("latent_step", "int64_t", "from token to token"),
    Param("rope_step", "int64_t", "from token to token"),
    Param("slots_step", "int64_t", "from token to token"),
    Param("num_slots", "int64_t", "of the cache"),
    Param("block_step", "int64_t", "from page to page"),
    Param("row_step", "int64_t", "from row to row in a page"),
    Param("scales_at", "int64_t", "in a page"),
    Param("scales_step", "int32_t", "from the scales of a token to those of the next"),
    Param("page_size", "int32_t", "tokens of a page"),
    Param("num_tokens", "int32_t", "to be written"),
    Param("wide_slots", "int32_t", "1: slots are of 64 bits"),
    Param("manner", "int32_t", "how a repeated slot is written once: WRITE_*"),
    Param("latent_bytes", "int32_t", "of a row of latent"),
    Param("given_bytes", "int32_t", "of the rows of latent and rope"),
    Param("copied", "int32_t", "1: not quantised, 0: as follows"),
    Param("encoded", "int32_t", "1: codes with one scale, 0: as follows"),
    Param("float16", "int32_t", "the columns given are 1: float16, 0: bfloat16"),
    Param("columns", "int32_t", "of a row"),
    Param("quantized", "int32_t", "columns that become codes"),
    Param("rope_at", "int32_t", "the other columns in a row"),
    Param("tile_shift", "int32_t", "log2 of lanes, 16 columns each, that share a scale"),
    Param("byte_scales", "int32_t", "1: scales are float8_e8m0fnu, 0: float32"),
    Param("unrounded", "int32_t", "1: scales need not be powers of two"),
)
