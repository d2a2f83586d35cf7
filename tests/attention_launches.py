"""What the launches of an attention call must be told, whatever keys are: the schedule, results and partial results."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import schedule

TENSOR_MAP_DTYPES = {"float16": 6, "bfloat16": 9}  # CUtensorMapDataType
SWIZZLED = [0, 3, 2, 0]  # no interleave, 128-byte swizzle, L2 promotion of 128 bytes, out of bounds is zero
ELEMENT = 2  # bytes
INT32_MAX = 2**31 - 1


def is_split(tiling: schedule.Tiling) -> bool:
    """Whether there are partial results to merge."""
    if tiling.piece_units:
        return tiling.slots > tiling.carries * tiling.num_parts
    return not tiling.whole and tiling.num_splits != 1 and tiling.num_parts > 1


def byte_strides(extents: list[int], strides: list[int]) -> list[int]:
    """Of the outer axes; 16, the smallest legal one, where the extent is 1."""
    return [stride * ELEMENT if extent > 1 else 16 for extent, stride in zip(extents[1:], strides, strict=True)]


@dataclass(frozen=True)
class Call:
    """A call on made-up tensors."""

    case: Any  # of the operation
    tiling: schedule.Tiling
    limits: schedule.Limits
    addresses: dict[str, int]
    strides: Callable[[str], tuple[int, ...]]  # of a tensor, in elements
    lengths: dict[str, int]  # parameters
    own_plan: bool = True
    h_kv: int = 1

    @property
    def varlen(self) -> bool:
        return self.case.cu_seqlens_q is not None

    def places(self) -> dict[str, int]:
        """Addresses in workspace and plan buffer: schedule, costs, partial rows and their log-sum-exp."""
        tiling = self.tiling
        cuts = self.addresses["workspace" if self.own_plan else "buffer"]
        first_slot, costs = (cuts + offset for offset in schedule.places(tiling))
        plan_bytes = schedule.ceil(costs + 8 * (self.case.batch + 1) - cuts, 16) * 16
        partial = self.addresses["workspace"] + (plan_bytes if self.own_plan else 0)
        slots, element = tiling.slots_per_part * tiling.num_parts * is_split(tiling), self.limits.partial_bytes
        if tiling.piece_units:
            slots, element = tiling.slots, 4
        rows = slots * tiling.cluster * tiling.slot_rows
        return {
            "cuts": cuts,
            "first_slot": first_slot if tiling.piece_units else 0,
            "cost_before": costs,
            "partial": partial if slots else 0,
            "partial_facts": partial + rows * self.case.d_v * element if slots else 0,
        }

    def tiling_params(self) -> dict[str, int]:
        """What all kernels have in common."""
        case, tiling, varlen = self.case, self.tiling, self.varlen
        return {
            "cu_seqlens_q": self.addresses["cu_seqlens_q"] if varlen else 0,
            **({"total_q": case.total_q} if varlen else {}),
            "s_q": case.most_queries,
            "group": tiling.group,
            "block_heads": tiling.block_heads,
            "block_tokens": tiling.block_tokens,
            "head_chunks": tiling.head_chunks,
            "cluster": tiling.cluster,
            "tiles_per_head": tiling.tiles_per_head,
            "tiles_per_request": tiling.columns,
            "batch": case.batch,
            "num_tiles": tiling.num_tiles,
            "num_parts": tiling.num_parts,
            "by_tile_major": schedule.divisor(tiling.columns if varlen else case.batch),
            "by_tiles_per_head": schedule.divisor(tiling.tiles_per_head),
            "by_head_chunks": schedule.divisor(tiling.head_chunks),
            "by_block_heads": schedule.divisor(tiling.block_heads),
        }

    def plan_params(self) -> dict[str, int]:
        tiling, where = self.tiling, self.places()
        return {
            **self.tiling_params(),
            **self.lengths,
            "cuts": where["cuts"],
            "first_slot": where["first_slot"],
            "cost_before": where["cost_before"],
            "slots": tiling.slots,
            "num_splits": tiling.num_splits,
            "pieces_apart": tiling.pieces_apart,
            "piece_units": tiling.piece_units,
            "piece_overhead": tiling.piece_overhead,
            "by_small_piece": schedule.divisor(max(1, tiling.piece_units + tiling.piece_overhead)),
            "by_large_piece": schedule.divisor(max(1, 2 * tiling.piece_units + tiling.piece_overhead)),
            "bands": tiling.bands,
            "whole_units": tiling.whole_units,
            "start_overhead": tiling.start_overhead,
            "split_overhead": self.limits.split_overhead,
        }

    def join_params(self) -> dict[str, Any]:
        """Those of the kernel that joins partial results: fold where they are batch invariant, else combine."""
        tiling = self.tiling
        if tiling.piece_units:
            return self.result_params() | self.slot_params() | {"capacity": self.lengths["capacity"]}
        rows = tiling.block_heads * tiling.block_tokens
        return self.result_params() | {
            "slots_per_part": tiling.slots_per_part,
            "rows_of_blocks": 0 if self.merges_by_warp else self.limits.workers,
            "by_block_rows": schedule.divisor(rows),
            "by_tile_rows": schedule.divisor(rows * tiling.cluster),
        }

    @property
    def merged_rows(self) -> int:
        tiling = self.tiling
        return tiling.num_tiles * tiling.cluster * tiling.block_heads * tiling.block_tokens

    @property
    def pieces(self) -> int:
        """Of a tile, about."""
        return schedule.ceil(self.tiling.num_parts, self.tiling.num_tiles)

    @property
    def merges_by_warp(self) -> bool:
        """Whether combine gives each row to a warp; else to a CTA, or several."""
        found = schedule.constants("attention/cuda.c")
        few = self.pieces <= found["WARP_PIECES"]
        return self.case.batch_invariant or few or self.merged_rows > self.limits.workers

    def combine_grid(self) -> int:
        found, rows = schedule.constants("attention/cuda.c"), self.merged_rows
        most = self.limits.workers
        if self.merges_by_warp:
            few = min(max(rows // 4, found["FEWEST_CTAS"]), found["FEW_CTAS"])
            return min(max(few, rows // 8), most)
        few = rows <= found["FEW_CTAS"] and self.pieces <= found["FEW_PIECES"]
        return min(found["FEW_CTAS"], most) if few else most

    def slot_params(self) -> dict[str, int]:
        return {
            "first_slot": self.places()["first_slot"],
            "slots": self.tiling.slots,
            "piece_units": self.tiling.piece_units,
            "by_piece_units": schedule.divisor(self.tiling.piece_units or 1),
        }

    def result_params(self) -> dict[str, Any]:
        """What all but plan have in common. Strides of extents of 1 are left out: any will do."""
        case, where, varlen = self.case, self.places(), self.varlen
        found = {
            **self.tiling_params(),
            **{name: where[name] for name in ("cuts", "partial", "partial_facts")},
            "out": self.addresses["out"],
            "lse": self.addresses["lse"] if "lse" in case.given else 0,
            "sink": self.addresses["attn_sink"] if "attn_sink" in case.inputs else 0,
            "out_is_float": int(case.out_dtype == "float32"),
            "lse_factor": 1.0 if case.lse_base2 else math.log(2),
            "empty_lse": -math.inf if case.empty_lse_minus else math.inf,
        }
        extents = {"b": 1 if varlen else case.batch, "s": case.total_q if varlen else case.s_q, "h": case.h_q}
        axes = {"out": "sh" if varlen else "bsh", "lse": "hs" if varlen else "bhs"}
        for tensor in ("out", *(["lse"] if "lse" in case.given else [])):
            for axis, stride in zip(axes[tensor], self.strides(tensor), strict=False):
                if extents[axis] > 1:
                    found[f"{tensor}_stride_{axis}"] = stride
        return found

    def q_maps(self) -> dict[str, dict[str, Any]]:
        """The latent columns of q and, where there are any, the RoPE columns, which are its last or a tensor of their
        own; by their parameters.
        """
        case = self.case
        maps = {"tma_q": self.q_map("q", 0, case.d_v)}
        if case.d_qk == case.d_v:
            return maps
        name, first = ("q_rope", 0) if case.parted else ("q", case.d_v)
        return maps | {"tma_q_rope": self.q_map(name, first, case.d_qk - case.d_v)}

    def q_map(self, name: str, first: int, columns: int) -> dict[str, Any]:
        """Columns of a tensor from `first` on as (d, head in group, token, KV head, request); the box is one row block.
        All tokens of variable-length queries are those of one request.
        """
        case, tiling = self.case, self.tiling
        *batch, token, head, _ = self.strides(name)
        tokens, requests = (case.s_q, case.batch) if batch else (case.total_q, 1)
        extents = [columns, tiling.group, tokens, self.h_kv, requests]
        return {
            "address": self.addresses[name] + 2 * first,
            "dtype": TENSOR_MAP_DTYPES[case.dtype],
            "extents": extents,
            "strides": byte_strides(extents, [head, token, head * tiling.group, *(batch or [0])]),
            "box": [64, tiling.block_heads, tiling.block_tokens, 1, 1],
            "modes": SWIZZLED,
        }


def log2_scale(case: Any) -> float:
    """The factor of logits, for powers of two."""
    scale = case.d_qk**-0.5 if case.softmax_scale is None else case.softmax_scale
    return scale * math.log2(math.e)
