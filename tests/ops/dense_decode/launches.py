"""The launches that a call must make, from the case alone."""

from __future__ import annotations

import math

import schedule
from dsl_kernels.core.variant import SHORT_DTYPES
from dsl_kernels.dense_decode.params import LOG_INVERSE
from ops.dense_decode.case import Case
from ops.dense_decode.shape_only import ADDRESSES, strides

FAMILIES = ("dense_decode", "combine", "fold", "plan")  # whose kernels a call may launch
TENSOR_MAP_DTYPES = {"float16": 6, "bfloat16": 9}  # CUtensorMapDataType
SWIZZLED = [0, 3, 2, 0]  # no interleave, 128-byte swizzle, L2 promotion of 128 bytes, out of bounds is zero
ELEMENT = 2  # bytes
UNIT = 64  # tokens
INT32_MAX = 2**31 - 1


def kernel_of(case: Case, processors: int) -> str:
    """The dense_decode kernel that is chosen for a case."""
    any_page = "" if (case.d_qk, case.page_size) == (576, UNIT) else "_pages"
    invariant = "_invariant" if case.batch_invariant else ""
    cluster = tiling_of(case, processors).cluster
    return f"dense_decode_{SHORT_DTYPES[case.dtype]}_{case.d_qk}_cluster{cluster}{any_page}{invariant}"


def tiling_of(case: Case, processors: int) -> schedule.Tiling:
    return schedule.tile(
        schedule.hopper(processors),
        batch=case.batch,
        s_q=case.most_queries,
        h_q=case.h_q,
        h_kv=case.h_kv,
        max_blocks=case.max_blocks,
        num_splits=case.num_splits,
        page_size=case.page_size,
        varlen=case.cu_seqlens_q is not None,
        total_q=case.total_q,
        batch_invariant=case.batch_invariant,
        d_v=case.d_v,
    )


def is_split(tiling: schedule.Tiling) -> bool:
    """Whether there are partial results to merge."""
    if tiling.piece_units:
        return tiling.slots > tiling.carries * tiling.num_parts
    return tiling.num_splits != 1 and tiling.num_parts > 1


def places(case: Case, tiling: schedule.Tiling, *, own_plan: bool) -> dict:
    """Addresses in workspace and plan buffer: schedule, costs, partial rows and their log-sum-exp."""
    cuts = ADDRESSES["workspace" if own_plan else "buffer"]
    first_slot, costs = (cuts + offset for offset in schedule.places(tiling))
    plan_bytes = schedule.ceil(costs + 8 * (case.batch + 1) - cuts, 16) * 16
    partial = ADDRESSES["workspace"] + (plan_bytes if own_plan else 0)
    limits = schedule.hopper(1)  # of partial rows they say the same for any number of processors
    slots, element = tiling.slots_per_part * tiling.num_parts * is_split(tiling), limits.partial_bytes
    if tiling.piece_units:
        slots, element = tiling.slots, 4
    rows = slots * tiling.cluster * tiling.slot_rows
    return {
        "cuts": cuts,
        "first_slot": first_slot if tiling.piece_units else 0,
        "cost_before": costs,
        "partial": partial if slots else 0,
        "partial_facts": partial + rows * case.d_v * element if slots else 0,
    }


def tiling_params(case: Case, tiling: schedule.Tiling) -> dict:
    """What all kernels of dense_decode have in common."""
    varlen = case.cu_seqlens_q is not None
    return {
        "cu_seqlens_q": ADDRESSES["cu_seqlens_q"] if varlen else 0,
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


def length_params(case: Case) -> dict:
    return {
        "lengths": ADDRESSES["cache_seqlens"],
        "capacity": min(case.max_blocks * case.page_size, INT32_MAX),
    }


def plan_params(case: Case, processors: int, *, own_plan: bool) -> dict:
    tiling = tiling_of(case, processors)
    limits = schedule.hopper(processors)
    where = places(case, tiling, own_plan=own_plan)
    return {
        **tiling_params(case, tiling),
        **length_params(case),
        "cuts": where["cuts"],
        "first_slot": where["first_slot"],
        "cost_before": where["cost_before"],
        "slots": tiling.slots,
        "num_splits": tiling.num_splits,
        "piece_units": tiling.piece_units,
        "bands": tiling.bands,
        "whole_units": tiling.whole_units,
        "start_overhead": tiling.start_overhead,
        "split_overhead": limits.split_overhead,
    }


def join_params(case: Case, processors: int, *, own_plan: bool) -> dict:
    """Those of the kernel that joins partial results: fold where they are batch invariant, else combine."""
    found = shared_params(case, processors, own_plan=own_plan)
    tiling = tiling_of(case, processors)
    if tiling.piece_units:
        capacity = length_params(case)["capacity"]
        return found | slot_params(case, processors, own_plan=own_plan) | {"capacity": capacity}
    rows = tiling.block_heads * tiling.block_tokens
    return found | {
        "slots_per_part": tiling.slots_per_part,
        "by_block_rows": schedule.divisor(rows),
        "by_tile_rows": schedule.divisor(rows * tiling.cluster),
    }


def slot_params(case: Case, processors: int, *, own_plan: bool) -> dict:
    tiling = tiling_of(case, processors)
    return {
        "first_slot": places(case, tiling, own_plan=own_plan)["first_slot"],
        "slots": tiling.slots,
        "piece_units": tiling.piece_units,
        "by_piece_units": schedule.divisor(tiling.piece_units or 1),
    }


def shared_params(case: Case, processors: int, *, own_plan: bool) -> dict:
    """What dense_decode, combine and fold have in common. Strides of extents of 1 are left out: any will do."""
    tiling = tiling_of(case, processors)
    where = places(case, tiling, own_plan=own_plan)
    found = {
        **tiling_params(case, tiling),
        **{name: where[name] for name in ("cuts", "partial", "partial_facts")},
        "out": ADDRESSES["out"],
        "lse": ADDRESSES["lse"] if "lse" in case.given else 0,
        "out_is_float": int(case.out_dtype == "float32"),
        "lse_factor": 1.0 if case.lse_base2 else math.log(2),
        "empty_lse": -math.inf if case.empty_lse_minus else math.inf,
    }
    varlen = case.cu_seqlens_q is not None
    extents = {"b": 1 if varlen else case.batch, "s": case.total_q if varlen else case.s_q, "h": case.h_q}
    axes = {"out": "sh" if varlen else "bsh", "lse": "hs" if varlen else "bhs"}
    for tensor in ("out", *(["lse"] if "lse" in case.given else [])):
        for axis, stride in zip(axes[tensor], strides(case, tensor), strict=False):
            if extents[axis] > 1:
                found[f"{tensor}_stride_{axis}"] = stride
    return found


def decode_params(case: Case, processors: int, *, own_plan: bool) -> dict:
    """Those of dense_decode without its tensor maps and the policy of the L2 cache."""
    scale = case.d_qk**-0.5 if case.softmax_scale is None else case.softmax_scale
    found = shared_params(case, processors, own_plan=own_plan) | {
        **slot_params(case, processors, own_plan=own_plan),
        "slots_per_part": tiling_of(case, processors).slots_per_part,
        **length_params(case),
        **paging_params(case, tiling_of(case, processors).cluster),
        **shard_params(case),
        # A kernel reads ahead: of a table without columns, in the lengths.
        "block_table": ADDRESSES["block_table" if case.max_blocks > 0 else "cache_seqlens"],
        "scale_log2": scale * math.log2(math.e),
        "max_blocks": max(case.max_blocks, 1),
        "causal": int(case.causal),
    }
    if case.batch > 1:
        found["block_table_stride"] = strides(case, "block_table")[0] if case.max_blocks > 0 else 0
    return found


def paging_params(case: Case, cluster: int) -> dict:
    """How the rows of a unit that a block of the cluster loads lie in pages."""
    rows = UNIT // cluster
    box_rows = math.gcd(case.page_size, rows)
    return {
        "page_size": case.page_size,
        "whole_pages": UNIT // case.page_size,
        "rows_beyond": UNIT % case.page_size,
        "box_rows": box_rows,
        "boxes": rows // box_rows,
        "page_inverse": schedule.ceil(2**LOG_INVERSE, case.page_size) if case.page_size < UNIT else 0,
        "by_page": schedule.divisor(case.page_size),
    }


def shard_params(case: Case) -> dict:
    if case.shard is None:
        return {"cp_period": 0}
    rank, world, interleave = case.shard.rank, case.shard.world, case.shard.interleave
    period = min(world * interleave, 2**32 - 1)
    return {
        "global_seqlens": ADDRESSES["global_seqlens"],
        "cp_period": period - (2**32 if period > INT32_MAX else 0),
        "cp_interleave": interleave,
        "cp_offset": min(rank * interleave, INT32_MAX),
    }


def q_map(case: Case, processors: int) -> dict:
    """q as (d, head in group, token, KV head, request); the box is one row block. All tokens of variable-length queries
    are those of one request.
    """
    tiling = tiling_of(case, processors)
    *batch, token, head, _ = strides(case, "q")
    tokens, requests = (case.s_q, case.batch) if batch else (case.total_q, 1)
    extents = [case.d_qk, tiling.group, tokens, case.h_kv, requests]
    return {
        "address": ADDRESSES["q"],
        "dtype": TENSOR_MAP_DTYPES[case.dtype],
        "extents": extents,
        "strides": _bytes(extents, [head, token, head * tiling.group, *(batch or [0])]),
        "box": [64, tiling.block_heads, tiling.block_tokens, 1, 1],
        "modes": SWIZZLED,
    }


def kv_map(case: Case, processors: int) -> dict:
    """kv_cache as (d, row, KV head, block); the box is rows of one page that one block of a cluster loads."""
    block, row, head, _ = strides(case, "kv_cache")
    extents = [case.d_qk, case.page_size, case.h_kv, case.num_blocks]
    return {
        "address": ADDRESSES["kv_cache"],
        "dtype": TENSOR_MAP_DTYPES[case.dtype],
        "extents": extents,
        "strides": _bytes(extents, [row, head, block]),
        "box": [64, paging_params(case, tiling_of(case, processors).cluster)["box_rows"], 1, 1],
        "modes": SWIZZLED,
    }


def _bytes(extents: list[int], strides: list[int]) -> list[int]:
    """Byte strides of the outer axes; 16, the smallest legal one, where the extent is 1."""
    return [stride * ELEMENT if extent > 1 else 16 for extent, stride in zip(extents[1:], strides, strict=True)]
