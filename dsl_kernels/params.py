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
    ctype: (
        str  # "tensormap", "T*" (the variant's dtype), "int32_t*", "int64_t*", "float*", "int32_t", "int64_t", "float"
    )
    meaning: str
    align: int = 4  # of what a pointer points to, bytes

    @property
    def size(self) -> int:
        """Bytes of the parameter itself."""
        if self.ctype == "tensormap":
            return 128
        return 8 if self.ctype.endswith("*") or self.ctype == "int64_t" else 4


# Geometry of tiles and the schedule: fm_tiling and fm_cut in libflashmla/src/internal.h.
_CUTS = Param("cuts", "int32_t*", "schedule: num_parts + 1 pairs (tile, page)", 8)
_PARTIAL = Param("partial", "float*", "normalised rows [2 * num_parts][cluster * 64][d_v]", 16)
_PARTIAL_LSE = Param("partial_lse", "float*", "base-2 log-sum-exp [2 * num_parts][cluster * 64]")
_OUTPUT = (
    Param("out", "T*", "output rows", 16),
    Param("lse", "float*", "natural log-sum-exp, or null"),
    Param("out_stride_b", "int64_t", "elements between requests"),
    Param("out_stride_s", "int64_t", "elements between query tokens"),
    Param("out_stride_h", "int64_t", "elements between heads"),
    Param("lse_stride_b", "int64_t", "elements between requests"),
    Param("lse_stride_h", "int64_t", "elements between heads"),
    Param("lse_stride_s", "int64_t", "elements between query tokens"),
)
_TILING = (
    Param("s_q", "int32_t", "query tokens of a request"),
    Param("group", "int32_t", "query heads of a KV head"),
    Param("block_heads", "int32_t", "heads of a row block"),
    Param("block_tokens", "int32_t", "query tokens of a row block"),
    Param("head_chunks", "int32_t", "row blocks of a token group"),
    Param("tiles_per_head", "int32_t", "tiles of one (request, KV head)"),
    Param("batch", "int32_t", "requests"),
    Param("num_tiles", "int32_t", "tiles in all"),
    Param("num_parts", "int32_t", "parts of the schedule"),
)

DENSE_DECODE = (
    Param("tma_q", "tensormap", "q as (d, head in group, token, KV head, request); box of one row block"),
    Param("tma_kv", "tensormap", "kv_cache as (d, row, head, block); box of 64 / cluster rows"),
    Param("block_table", "int32_t*", "page numbers"),
    Param("cache_seqlens", "int32_t*", "tokens of each request"),
    _CUTS,
    _PARTIAL,
    _PARTIAL_LSE,
    *_OUTPUT,
    Param("block_table_stride", "int64_t", "entries between requests"),
    Param("scale_log2", "float", "softmax_scale * log2(e)"),
    Param("max_blocks", "int32_t", "columns of the block table"),
    Param("causal", "int32_t", "0 or 1"),
    *_TILING,
)

COMBINE = (
    _CUTS,
    _PARTIAL,
    _PARTIAL_LSE,
    *_OUTPUT,
    *_TILING,
    Param("cluster", "int32_t", "row blocks of a tile"),
)

PLAN = (
    Param("cache_seqlens", "int32_t*", "tokens of each request"),
    _CUTS,
    Param("cost_before", "int64_t*", "scratch: batch + 1 prefix sums of the cost", 8),
    Param("batch", "int32_t", "requests"),
    Param("max_blocks", "int32_t", "columns of the block table"),
    Param("tiles_per_request", "int32_t", "tiles of a request"),
    Param("num_tiles", "int32_t", "tiles in all"),
    Param("num_parts", "int32_t", "parts of the schedule"),
    Param("num_splits", "int32_t", "0, or parts of every tile"),
    Param("start_overhead", "int32_t", "cost of beginning a tile, pages"),
    Param("split_overhead", "int32_t", "extra cost of a split work list, pages"),
)

BY_OPERATION: dict[str, tuple[Param, ...]] = {"dense_decode": DENSE_DECODE, "combine": COMBINE, "plan": PLAN}


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
