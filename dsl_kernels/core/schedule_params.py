"""What kernels share that work on the schedule: constants and parts of their parameter lists. Standard library only."""

from __future__ import annotations

from .params import Param

LOG_UNIT = 6
UNIT = 1 << LOG_UNIT  # KV tokens that are worked on as one
MAX_SPLITS = 1024  # pieces of a tile that are merged: no plan can be forced to more, and there are fewer SMs
ROWS = 64  # query rows of a block

# A partial row is stored in float16, each half scaled by a power of two so that it uses the format's whole precision,
# whatever the range of V. With it go, in float32: base-2 log-sum-exp (-inf: empty, the row is not written), the values
# that 1.0 in its left and in its right half stands for, and padding.
PARTIAL_BYTES = 2  # of an element
FACT_LSE, FACT_LEFT, FACT_RIGHT, FACTS = 0, 1, 2, 4

# Batch-invariant schedules: a request's first so many pieces are of a quantum (piece_units), the others of two; so many
# pieces in turn are a node. What the packed words of a work record have room for.
SMALL_PIECES, LOG_NODE_PIECES = 8, 3
NODE_PIECES = 1 << LOG_NODE_PIECES
BUDGETS = 64  # of a part, that the scheduler tries
LOG_MAX_SLOTS, LOG_MAX_PARTS = 20, 8
STRIPE = 16  # rows of a block that a warp has; a slot has room for the stripes in which a row can be one of the block's

CONSTANTS = {
    "UNIT": UNIT,
    "PARTIAL_BYTES": PARTIAL_BYTES,
    "PARTIAL_FACTS": FACTS,
    "SMALL_PIECES": SMALL_PIECES,
    "NODE_PIECES": NODE_PIECES,
    "BUDGETS": BUDGETS,
    "STRIPE": STRIPE,
    "MAX_SLOTS": 1 << LOG_MAX_SLOTS,
    "MAX_PARTS": 1 << LOG_MAX_PARTS,
}

# Geometry of tiles and the schedule: fm_tiling and fm_cut of the C core.
CUTS = Param("cuts", "int32_t*", "schedule: num_parts + 1 pairs (tile, unit)", 8)
PARTIAL = Param("partial", "void*", "partial rows, by slots: see fm_partials of the C core", 16, "float16")
PARTIAL_FACTS = Param("partial_facts", "float*", "FACTS of each partial row", 16)
OUTPUT = (
    Param("out", "void*", "output rows, in the kernel's dtype or in float32", 16, "out"),
    Param("lse", "float*", "log-sum-exp, or null"),
    Param("sink", "const float*", "a logit for each query head, which takes part in the softmax alone; or null"),
    Param("out_stride_b", "int64_t", "elements between requests"),
    Param("out_stride_s", "int64_t", "elements between query tokens"),
    Param("out_stride_h", "int64_t", "elements between heads"),
    Param("lse_stride_b", "int64_t", "elements between requests"),
    Param("lse_stride_h", "int64_t", "elements between heads"),
    Param("lse_stride_s", "int64_t", "elements between query tokens"),
    Param("out_is_float", "int32_t", "0, or 1: out is float32 whatever the kernel's dtype"),
    Param("lse_factor", "float", "what a base-2 logarithm is multiplied by: ln 2, or 1"),
    Param("empty_lse", "float", "log-sum-exp of a row that attends to nothing"),
)
QUERIES = (
    Param("cu_seqlens_q", "const int32_t*", "first query token of each request, or null: every request has s_q"),
    Param("total_q", "int32_t", "query tokens in all, with cu_seqlens_q"),
)
TILING = (
    Param("s_q", "int32_t", "query tokens of a request, with cu_seqlens_q at most"),
    Param("group", "int32_t", "query heads of a KV head"),
    Param("block_heads", "int32_t", "heads of a row block"),
    Param("block_tokens", "int32_t", "query tokens of a row block"),
    Param("head_chunks", "int32_t", "row blocks of a token group"),
    Param("cluster", "int32_t", "row blocks of a tile"),
    Param("tiles_per_head", "int32_t", "tiles of one (request, KV head)"),
    Param("tiles_per_request", "int32_t", "tiles of a request: columns"),
    Param("batch", "int32_t", "requests"),
    Param("num_tiles", "int32_t", "tiles in all"),
    Param("num_parts", "int32_t", "parts of the schedule"),
)
DIVISORS = (
    # schedule.divide: low 32 bits a multiplier, high ones a shift
    Param("by_tile_major", "int64_t", "divides by the faster axis of tile numbers: batch, or tiles_per_request"),
    Param("by_tiles_per_head", "int64_t", "divides by tiles_per_head"),
    Param("by_head_chunks", "int64_t", "divides by head_chunks"),
    Param("by_block_heads", "int64_t", "divides by block_heads"),
)
# Cuts that follow from shapes: fm_known_cuts of the C core. Costs are in units, from the begin of the work list on.
KNOWN_CUTS = (
    Param("tile_cost", "int32_t", "of a tile, units and what it begins with; 0: the cuts are read instead"),
    Param("begin_cost", "int32_t", "what a tile begins with"),
    Param("group_parts", "int32_t", "parts of a group, which are as far apart as those of any other"),
    Param("group_cost", "int32_t", "of the tiles of a group"),
    Param("first_cost", "int32_t", "from a group's begin to the cut of its first part"),
    Param("part_cost", "int32_t", "from cut to cut"),
    Param("total_cost", "int32_t", "of all tiles"),
    Param("by_tile_cost", "int64_t", "divides by tile_cost"),
    Param("by_group_parts", "int64_t", "divides by group_parts"),
)
CUTS_ARE_READ = {"tile_cost": 0}  # in kernels that do not have them
SLOTS = Param("slots_per_part", "int32_t", "partial slots of a part: 2, or 1")
PIECE_UNITS = Param("piece_units", "int32_t", "batch invariant: units of a quantum; else 0")
FIRST_SLOT = Param("first_slot", "int32_t*", "batch invariant: first slot of each part, end of all, level; else null")
INVARIANT = (  # batch invariant
    FIRST_SLOT,
    Param("slots", "int32_t", "partial slots in all"),
    PIECE_UNITS,
    Param("by_piece_units", "int64_t", "divides by piece_units"),
)
SHARD = (
    Param("global_seqlens", "const int32_t*", "tokens of each request over all shards, or null"),
    Param("cp_period", "int32_t", "tokens of a turn of all shards, as 32 bits without sign; 0: the cache is whole"),
    Param("cp_interleave", "int32_t", "tokens of a shard's turn"),
    Param("cp_offset", "int32_t", "where the turn of this shard begins in the period"),
)
LENGTHS = (
    Param("lengths", "const int32_t*", "KV items of each request, or null: all have `capacity`"),
    Param("capacity", "int32_t", "KV items of a request at most: lengths are clamped to it"),
)
WINDOW = Param("window", "int32_t", "KV items that a query token attends at most, its last ones; 0: any number")
# Items that come from a second cache, behind the others: in units of their own.
EXTRA_LENGTHS = (
    Param("extra_lengths", "const int32_t*", "items of each request from the extra cache, or null: extra_capacity"),
    Param("extra_capacity", "int32_t", "items of a request from the extra cache at most; 0: there is none"),
)
