"""The launches that a call must make, from the case alone."""

from __future__ import annotations

import math
from functools import partial

import schedule
from attention_launches import INT32_MAX, SWIZZLED, TENSOR_MAP_DTYPES, Call, byte_strides, log2_scale
from dsl_kernels.core.variant import SHORT_DTYPES
from dsl_kernels.dense_decode.params import LOG_INVERSE
from ops.dense_decode.case import OF_WIDER, Case
from ops.dense_decode.oracle import D_V
from ops.dense_decode.shape_only import ADDRESSES, strides

FAMILIES = ("dense_decode", "combine", "fold", "plan")  # whose kernels a call may launch
UNIT = 64  # tokens


def kernel_of(case: Case, processors: int) -> str:
    """The dense_decode kernel that is chosen for a case."""
    any_page = "" if (case.d_qk, case.page_size) == (576, UNIT) else "_gather" if gathers(case) else "_pages"
    invariant = "_invariant" if case.batch_invariant else ""
    cluster = tiling_of(case, processors).cluster
    d_qk = OF_WIDER.get(case.d_qk, case.d_qk)
    return f"dense_decode_{SHORT_DTYPES[case.dtype]}_{d_qk}_cluster{cluster}{any_page}{invariant}"


def gathers(case: Case) -> bool:
    return schedule.hopper(1).gathers(case.page_size, case.batch_invariant)


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


def call_of(case: Case, processors: int, *, own_plan: bool = True) -> Call:
    lengths = {
        "lengths": ADDRESSES["cache_seqlens"],
        "capacity": min(case.max_blocks * case.page_size, INT32_MAX),
        "extra_lengths": 0,
        "extra_capacity": 0,
    }
    return Call(
        case,
        tiling_of(case, processors),
        schedule.hopper(processors),
        ADDRESSES,
        partial(strides, case),
        lengths,
        own_plan,
        case.h_kv,
    )


def decode_params(case: Case, processors: int, *, own_plan: bool) -> dict:
    """Those of dense_decode without its tensor maps and the policy of the L2 cache."""
    call = call_of(case, processors, own_plan=own_plan)
    found = call.result_params() | {
        **call.slot_params(),
        "slots_per_part": call.tiling.slots_per_part,
        "lengths": call.lengths["lengths"],
        "capacity": call.lengths["capacity"],
        **paging_params(case, call.tiling.cluster),
        **shard_params(case),
        # A kernel reads ahead: of a table without columns, in the lengths.
        "block_table": ADDRESSES["block_table" if case.max_blocks > 0 else "cache_seqlens"],
        "scale_log2": log2_scale(case),
        "max_blocks": max(case.max_blocks, 1),
        "causal": int(case.causal),
        **cache_params(case),
    }
    if case.batch > 1:
        found["block_table_stride"] = strides(case, "block_table")[0] if case.max_blocks > 0 else 0
    return found


def cache_params(case: Case) -> dict:
    """The cache as it is gathered; distances in bytes, where there are two."""
    extents = case.shapes()["kv_cache"][:3]
    steps = [2 * stride for stride in strides(case, "kv_cache")[:3]]
    names = "block_step", "row_step", "head_step"
    found = {name: step for name, step, extent in zip(names, steps, extents, strict=True) if extent > 1}
    rope_bytes = 2 * (case.d_qk - D_V[case.d_qk])
    return found | {"cache": ADDRESSES["kv_cache"], "num_blocks": case.num_blocks, "rope_bytes": rope_bytes}


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


def kv_map(case: Case, processors: int) -> dict:
    """kv_cache as (d, row, KV head, block); the box is rows of one page that one block of a cluster loads."""
    block, row, head, _ = strides(case, "kv_cache")
    extents = [case.d_qk, case.page_size, case.h_kv, case.num_blocks]
    return {
        "address": ADDRESSES["kv_cache"],
        "dtype": TENSOR_MAP_DTYPES[case.dtype],
        "extents": extents,
        "strides": byte_strides(extents, [row, head, block]),
        "box": [64, paging_params(case, tiling_of(case, processors).cluster)["box_rows"], 1, 1],
        "modes": SWIZZLED,
    }
