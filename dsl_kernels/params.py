"""Parameter lists of the kernels: the order in which the launcher passes them. Standard library only.

From one list come the kernel's signature (a tuple in this order, read by name through `Named`), the C struct of the
launcher (aot/embed.py) and the layout check of the compiled entry (aot/compiling.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Param:
    name: str
    ctype: str  # "tensormap", "T*" (the variant's dtype), or a C type or pointer of kernel_params.h; half*: float16
    meaning: str
    align: int = 4  # of what a pointer points to, bytes

    @property
    def size(self) -> int:
        """Bytes of the parameter itself."""
        if self.ctype == "tensormap":
            return 128
        return 8 if self.ctype.endswith("*") or self.ctype == "int64_t" else 4


# What the C core and the kernels must agree on: in kernel_params.h as FM_KERNEL_*, for the launcher to use or compare.
MAX_SPLITS = 1024  # pieces of a tile that combine merges: no plan can be forced to more, and there are fewer SMs
MAX_PIECES = 32  # of a tile in batch-invariant schedules
MAX_STATES = 16  # separate parts of merge_states
PARTIAL_BYTES = 2  # of an element of a partial row: float16
PARTIAL_FACTS = 4  # float32 numbers that go with a partial row, see components/epilogue.py
CONSTANTS = {
    "MAX_SPLITS": MAX_SPLITS,
    "MAX_PIECES": MAX_PIECES,
    "MAX_STATES": MAX_STATES,
    "PARTIAL_BYTES": PARTIAL_BYTES,
    "PARTIAL_FACTS": PARTIAL_FACTS,
}

# Geometry of tiles and the schedule: fm_tiling and fm_cut in libflashmla/src/internal.h.
_CUTS = Param("cuts", "int32_t*", "schedule: num_parts + 1 pairs (tile, unit)", 8)
_PARTIAL = Param("partial", "half*", "rows [slots_per_part * num_parts][cluster * 64][d_v], scaled", 16)
_PARTIAL_FACTS = Param("partial_facts", "float*", "of each partial row: epilogue.FACTS", 16)
_OUTPUT = (
    Param("out", "T*", "output rows, in the kernel's dtype or in float32", 16),
    Param("lse", "float*", "log-sum-exp, or null"),
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
_QUERIES = (
    Param("cu_seqlens_q", "int32_t*", "first query token of each request, or null: every request has s_q"),
    Param("total_q", "int32_t", "query tokens in all, with cu_seqlens_q"),
)
_TILING = (
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
_DIVISORS = (
    # schedule.divide: low 32 bits a multiplier, high ones a shift
    Param("by_tile_major", "int64_t", "divides by the faster axis of tile numbers: batch, or tiles_per_request"),
    Param("by_tiles_per_head", "int64_t", "divides by tiles_per_head"),
    Param("by_head_chunks", "int64_t", "divides by head_chunks"),
    Param("by_block_heads", "int64_t", "divides by block_heads"),
)
_SLOTS = Param("slots_per_part", "int32_t", "partial slots of a part: 2, or 1")
_PIECE_UNITS = Param("piece_units", "int32_t", "batch invariant: units of a piece at least; else 0")
_LENGTHS = (
    Param("cache_seqlens", "int32_t*", "tokens of each request"),
    Param("capacity", "int32_t", "tokens that a row of the block table can name, at most 2^31 - 1"),
)

DENSE_DECODE = (
    Param("tma_q", "tensormap", "q as (d, head in group, token, KV head, request); box of one row block"),
    Param("tma_kv", "tensormap", "kv_cache as (d, row, head, block); box of box_rows rows"),
    Param("block_table", "int32_t*", "page numbers"),
    *_LENGTHS,
    _CUTS,
    _PARTIAL,
    _PARTIAL_FACTS,
    *_OUTPUT,
    Param("block_table_stride", "int64_t", "entries between requests"),
    Param("scale_log2", "float", "softmax_scale * log2(e)"),
    Param("max_blocks", "int32_t", "columns of the block table"),
    Param("causal", "int32_t", "0 or 1"),
    Param("kv_policy", "int64_t", "L2 cache policy of the loads of KV"),
    *_QUERIES,
    *_TILING,
    *_DIVISORS,
    _SLOTS,
    # where a unit of 64 tokens lies in pages of another size
    Param("page_size", "int32_t", "tokens of a page"),
    Param("units_per_page", "int32_t", "units of a page of 64 tokens or more; else 1"),
    Param("pages_per_unit", "int32_t", "pages of a unit, of pages of fewer than 64 tokens; else 1"),
    Param("boxes", "int32_t", "boxes of a unit that one block of the cluster loads"),
    Param("box_rows", "int32_t", "rows of a box: min(page_size, 64 / cluster)"),
    # context parallelism
    Param("global_seqlens", "int32_t*", "tokens of each request over all shards"),
    Param("cp_period", "int32_t", "tokens of a turn of all shards, as 32 bits without sign; 0: the cache is whole"),
    Param("cp_interleave", "int32_t", "tokens of a shard's turn"),
    Param("cp_offset", "int32_t", "where the turn of this shard begins in the period"),
)

COMBINE = (
    _CUTS,
    _PARTIAL,
    _PARTIAL_FACTS,
    *_OUTPUT,
    *_QUERIES,
    *_TILING,
    *_DIVISORS,
    Param("by_block_rows", "int64_t", "divides by the rows of a block: block_heads * block_tokens"),
    Param("by_tile_rows", "int64_t", "divides by the rows of a tile"),
    _SLOTS,
    _PIECE_UNITS,
)

PLAN = (
    *_LENGTHS,
    _CUTS,
    Param("cost_before", "int64_t*", "scratch: batch + 1 prefix sums of the cost", 8),
    *_QUERIES,
    *_TILING,
    *_DIVISORS,
    Param("bands", "int32_t", "columns that are cut alike, all of them; or 1"),
    Param("num_splits", "int32_t", "0, or parts of every tile"),
    _PIECE_UNITS,
    Param("whole_units", "int32_t", "a tile of at most so many units is not split"),
    Param("start_overhead", "int32_t", "cost of beginning a tile, units"),
    Param("split_overhead", "int32_t", "extra cost of a split work list, units"),
)

_AXES = (("b", "requests"), ("s", "query tokens"), ("h", "heads"))

MERGE_STATES = (
    *(Param(f"out_{i}", "T*", f"rows of part {i}", 16) for i in range(MAX_STATES)),
    *(Param(f"lse_{i}", "float*", f"log-sum-exp of part {i}") for i in range(MAX_STATES)),
    *(
        Param(f"{what}_{i}_stride_{axis}", "int64_t", f"elements between {meaning}")
        for i in range(MAX_STATES)
        for what in ("out", "lse")
        for axis, meaning in _AXES
    ),
    Param("result", "T*", "merged rows, in the kernel's dtype or another", 16),
    Param("result_lse", "float*", "merged log-sum-exp, or null"),
    *(
        Param(f"{what}_stride_{axis}", "int64_t", f"elements between {meaning}")
        for what in ("result", "result_lse")
        for axis, meaning in _AXES
    ),
    Param("out_state_stride", "int64_t", "stacked: elements between parts"),
    Param("lse_state_stride", "int64_t", "stacked: elements between parts"),
    Param("num_states", "int32_t", "parts"),
    Param("stacked", "int32_t", "1: part 0 is listed alone, the others follow it by the strides above"),
    Param("rows", "int32_t", "rows of a part: batch * s_q * h_q"),
    Param("s_q", "int32_t", "query tokens of a request"),
    Param("h_q", "int32_t", "heads"),
    Param("chunks", "int32_t", "columns / 8"),
    Param("result_dtype", "int32_t", "of result: 0 bfloat16, 1 float16, 2 float32"),
    Param("to_log2", "float", "what a log-sum-exp is multiplied by to be of base 2"),
    Param("lse_factor", "float", "what a base-2 logarithm is multiplied by: ln 2, or 1"),
    Param("empty_lse", "float", "log-sum-exp of a row without parts"),
)

BY_OPERATION: dict[str, tuple[Param, ...]] = {
    "dense_decode": DENSE_DECODE,
    "combine": COMBINE,
    "plan": PLAN,
    "merge_states": MERGE_STATES,
}


class Named:
    """The run-time values of a kernel by name. Read-only, and opaque to the tracing of loop-carried values."""

    __slots__ = ("_values",)

    def __init__(self, params: tuple[Param, ...], values: Any) -> None:
        names = [p.name for p in params if p.ctype != "tensormap"]  # tensor maps travel apart from this tuple
        object.__setattr__(self, "_values", dict(zip(names, values, strict=True)))

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(name) from None
