"""The launches that a call must make, from the case and from libflashmla/src/internal.h and dsl_kernels/params.py."""

from __future__ import annotations

import math
import struct

import made_up
import schedule
from cases import Case
from dsl_kernels import params

BLOCK_THREADS = {"dense_decode": 384, "combine": 512, "plan": 256}
CLUSTER, DEPENDENT_LAUNCH = "4", "6"  # launch attributes (cuda.h, CUlaunchAttributeID)
TENSOR_MAP_DTYPES = {"float16": 6, "bfloat16": 9}  # CUtensorMapDataType
SWIZZLED = [0, 3, 2, 0]  # no interleave, 128-byte swizzle, L2 promotion of 128 bytes, out of bounds is zero
ELEMENT = 2  # bytes


def tiling_of(case: Case, processors: int) -> schedule.Tiling:
    limits = schedule.hopper(processors)
    extents = {"batch": case.batch, "s_q": case.s_q, "h_q": case.h_q, "h_kv": case.h_kv, "max_blocks": case.max_blocks}
    return schedule.tile(limits, **extents, num_splits=case.num_splits)


def decoded(launch: dict) -> dict:
    """A launch's parameters by name; tensor maps as the number that the stub wrote into them."""
    operation = next(name for name in params.BY_OPERATION if launch["kernel"].startswith(f"flashmla_{name}"))
    formats = {"float": "<f", "int32_t": "<i", "int64_t": "<q", "tensormap": "<Q120x"}
    listed = params.BY_OPERATION[operation]
    return {
        p.name: struct.unpack(formats.get(p.ctype, "<Q"), bytes.fromhex(text))[0]
        for p, text in zip(listed, launch["params"], strict=True)
    }


def places(case: Case, tiling: schedule.Tiling, *, own_plan: bool) -> dict:
    """Addresses in workspace and plan buffer: schedule, costs, partial rows and their log-sum-exp."""
    cuts = made_up.ADDRESSES["workspace" if own_plan else "buffer"]
    costs = cuts + schedule.ceil(8 * (tiling.num_parts + 1), 16) * 16
    plan_bytes = schedule.ceil(costs + 8 * (case.batch + 1) - cuts, 16) * 16
    partial = made_up.ADDRESSES["workspace"] + (plan_bytes if own_plan else 0)
    rows = 2 * tiling.num_parts * tiling.cluster * 64
    split = case.num_splits != 1 and tiling.num_parts > 1
    return {
        "cuts": cuts,
        "cost_before": costs,
        "partial": partial if split else 0,
        "partial_lse": partial + rows * 512 * 4 if split else 0,
    }


def plan_params(case: Case, processors: int, *, own_plan: bool) -> dict:
    tiling = tiling_of(case, processors)
    limits = schedule.hopper(processors)
    where = places(case, tiling, own_plan=own_plan)
    return {
        "cache_seqlens": made_up.ADDRESSES["cache_seqlens"],
        "cuts": where["cuts"],
        "cost_before": where["cost_before"],
        "batch": case.batch,
        "max_blocks": case.max_blocks,
        "tiles_per_request": tiling.columns,
        "num_tiles": tiling.num_tiles,
        "num_parts": tiling.num_parts,
        "num_splits": case.num_splits,
        "start_overhead": limits.start_overhead,
        "split_overhead": limits.split_overhead,
    }


def shared_params(case: Case, processors: int, *, own_plan: bool) -> dict:
    """What dense_decode and combine have in common. Strides of extents of 1 are left out: any will do."""
    tiling = tiling_of(case, processors)
    where = places(case, tiling, own_plan=own_plan)
    found = {
        **{name: where[name] for name in ("cuts", "partial", "partial_lse")},
        "out": made_up.ADDRESSES["out"],
        "lse": made_up.ADDRESSES["lse"] if "lse" in case.given else 0,
        "s_q": case.s_q,
        "group": tiling.group,
        "block_heads": tiling.block_heads,
        "block_tokens": tiling.block_tokens,
        "head_chunks": tiling.head_chunks,
        "tiles_per_head": tiling.tiles_per_head,
        "batch": case.batch,
        "num_tiles": tiling.num_tiles,
        "num_parts": tiling.num_parts,
    }
    extents = {"b": case.batch, "s": case.s_q, "h": case.h_q}
    for tensor, axes in (("out", "bsh"), ("lse", "bhs") if "lse" in case.given else ("lse", "")):
        for axis, stride in zip(axes, made_up.strides(case, tensor), strict=False):
            if extents[axis] > 1:
                found[f"{tensor}_stride_{axis}"] = stride
    return found


def combine_params(case: Case, processors: int, *, own_plan: bool) -> dict:
    return shared_params(case, processors, own_plan=own_plan) | {"cluster": tiling_of(case, processors).cluster}


def decode_params(case: Case, processors: int, *, own_plan: bool) -> dict:
    """Those of dense_decode without its tensor maps."""
    scale = 576**-0.5 if case.softmax_scale is None else case.softmax_scale
    found = shared_params(case, processors, own_plan=own_plan) | {
        "block_table": made_up.ADDRESSES["block_table"],
        "cache_seqlens": made_up.ADDRESSES["cache_seqlens"],
        "scale_log2": scale * math.log2(math.e),
        "max_blocks": case.max_blocks,
        "causal": int(case.causal),
    }
    if case.batch > 1:
        found["block_table_stride"] = made_up.strides(case, "block_table")[0]
    return found


def q_map(case: Case, processors: int) -> dict:
    """q as (d, head in group, token, KV head, request); the box is one row block."""
    tiling = tiling_of(case, processors)
    batch, token, head, _ = made_up.strides(case, "q")
    extents = [576, tiling.group, case.s_q, case.h_kv, case.batch]
    strides = [head, token, head * tiling.group, batch]
    return {
        "address": made_up.ADDRESSES["q"],
        "dtype": TENSOR_MAP_DTYPES[case.dtype],
        "extents": extents,
        "strides": _bytes(extents, strides),
        "box": [64, tiling.block_heads, tiling.block_tokens, 1, 1],
        "modes": SWIZZLED,
    }


def kv_map(case: Case, processors: int) -> dict:
    """kv_cache as (d, row, KV head, block); the box is the rows of a page that one block of a cluster loads."""
    tiling = tiling_of(case, processors)
    block, row, head, _ = made_up.strides(case, "kv_cache")
    extents = [576, 64, case.h_kv, case.num_blocks]
    return {
        "address": made_up.ADDRESSES["kv_cache"],
        "dtype": TENSOR_MAP_DTYPES[case.dtype],
        "extents": extents,
        "strides": _bytes(extents, [row, head, block]),
        "box": [64, 64 // tiling.cluster, 1, 1],
        "modes": SWIZZLED,
    }


def _bytes(extents: list[int], strides: list[int]) -> list[int]:
    """Byte strides of the outer axes; 16, the smallest legal one, where the extent is 1."""
    return [stride * ELEMENT if extent > 1 else 16 for extent, stride in zip(extents[1:], strides, strict=True)]
