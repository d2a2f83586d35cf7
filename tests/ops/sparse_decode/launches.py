"""The launches that a call must make, from the case alone."""

from __future__ import annotations

from functools import partial

import numpy as np

import schedule
from attention_launches import Call, log2_scale
from dsl_kernels.core.schedule_params import CONSTANTS as FACTS
from dsl_kernels.core.schedule_params import PARTIAL_BYTES, ROWS
from ops.sparse_decode.case import Cache, SparseCase
from ops.sparse_decode.shape_only import ADDRESSES, strides
from stub_driver.launches import PROCESSORS

UNIT = 64  # indices


def kernel_of(case: SparseCase, prefix: str = "", processors: int = PROCESSORS) -> str:
    """The kernel that is chosen for a case, or for its extra cache: of codes one for pairs, where tiles are pairs."""
    kv_format = case.caches[prefix].kv_format
    pair = "_pair" * (call_of(case, processors).tiling.cluster > 1)
    suffix = "" if kv_format == "bf16" else f"_{kv_format}{pair}"
    return f"sparse_decode_bf16_{case.d_qk}{suffix}"


def is_apart(case: SparseCase) -> bool:
    """Whether a launch of its own attends each selection."""
    return case.extra is not None and case.extra.topk > 0 and case.extra.kv_format != case.main.kv_format


def limits_of(tokens: int, h_q: int, kv_format: str, processors: int) -> schedule.Limits:
    """Both blocks of heads of a query token are a tile where its rows are codes and query tokens are not few."""
    found = schedule.constants("ops/sparse_decode/cuda.c")
    pairs = tokens * found["PAIR"] * found["FEW"] > processors and h_q > ROWS and kv_format != "bf16"
    return schedule.Limits(
        block_rows=ROWS,
        max_cluster=found["PAIR"] if pairs else 1,
        workers=processors,
        start_overhead=found["START_OVERHEAD"],
        split_overhead=found["SPLIT_OVERHEAD"],
        piece_units=0,  # batch-invariant calls split no tile
        whole_units=found["WHOLE_UNITS"],
        join_overhead=found["JOIN_OVERHEAD"],
        unit_rows=found["UNIT_ROWS"],
        partial_bytes=PARTIAL_BYTES,
    )


def call_of(case: SparseCase, processors: int) -> Call:
    """With a plan where the case has one."""
    extra_topk = case.extra.topk if case.extra else 0
    units = schedule.ceil(case.main.topk, UNIT), schedule.ceil(extra_topk, UNIT)
    apart = is_apart(case)
    own_plan = case.plan == "none" or apart
    tokens = case.batch * case.s_q if case.cu_seqlens_q is None else case.total_q
    limits = limits_of(tokens, case.h_q, case.main.kv_format if own_plan else case.planned_format, processors)
    tiling = schedule.tile(
        limits,
        batch=case.batch,
        s_q=case.most_queries,
        h_q=case.h_q,
        h_kv=1,
        max_blocks=sum(units),
        num_splits=case.num_splits,
        batch_invariant=case.batch_invariant,
        varlen=case.cu_seqlens_q is not None,
        total_q=case.total_q,
        d_v=case.d_v,
        own_items=True,
        full=not any("topk_length" in name for name in case.inputs),
        apart=units if apart else None,
    )
    given = case.inputs
    lengths = {
        "lengths": ADDRESSES["topk_length"] if "topk_length" in given else 0,
        "capacity": case.main.topk,
        "extra_lengths": ADDRESSES["extra_topk_length"] if "extra_topk_length" in given else 0,
        "extra_capacity": extra_topk,
    }
    return Call(case, tiling, limits, ADDRESSES, partial(strides, case), lengths, own_plan)


def makes_schedule(case: SparseCase, processors: int) -> bool:
    """Whether a call launches what makes one."""
    return call_of(case, processors).own_plan and known_cuts(case, processors) is None


def known_cuts(case: SparseCase, processors: int) -> np.ndarray | None:
    """The schedule of a call, where its kernels do not read it."""
    call, full = call_of(case, processors), not any("topk_length" in name for name in case.inputs)
    if not schedule.are_known(call.tiling, full=full):
        return None
    units = schedule.ceil(case.main.topk, UNIT) + schedule.ceil(case.extra.topk if case.extra else 0, UNIT)
    return schedule.schedule(call.limits, call.tiling, np.full(case.batch, units)).cuts


def decode_params(case: SparseCase, processors: int, which: str | None = None) -> dict:
    """Those of sparse_decode without its tensor map. `which`: the prefix of the one selection that it is told of."""
    call = call_of(case, processors)
    found = call.result_params() | call.lengths
    found |= {"slots_per_part": call.tiling.slots_per_part, "scale_log2": log2_scale(case), "stores_all": 0}
    if which is not None:
        return found | params_apart(case, call, which)
    for prefix, cache in case.caches.items():
        found |= cache_params(case, prefix, cache)
    return found


def params_apart(case: SparseCase, call: Call, which: str) -> dict:
    """A selection as if it were the main one and alone; every second slot is its own."""
    parts, behind, where = call.tiling.num_parts // 2, int(which == "extra_"), call.places()
    rows = ROWS * call.tiling.cluster
    found = {
        "num_parts": parts,
        "slots_per_part": 2,
        "stores_all": 1,
        "cuts": where["cuts"] + 8 * (2 * parts + 1 + behind * (parts + 1)),
        "partial": where["partial"] + behind * rows * case.d_v * PARTIAL_BYTES,
        "partial_facts": where["partial_facts"] + behind * rows * FACTS["PARTIAL_FACTS"] * 4,
        "lengths": call.lengths[f"{which}lengths"],
        "capacity": call.lengths[f"{which}capacity"],
        **{f"extra_{name}": 0 for name in ("lengths", "capacity", "cache", "indices", "slots")},
    }
    own = cache_params(case, which, case.caches[which])
    return found | {name.removeprefix(which): value for name, value in own.items()}


def cache_params(case: SparseCase, prefix: str, cache: Cache) -> dict:
    """A cache and what is selected from it. Strides of extents of 1 are left out: any will do."""
    block, row, _, _ = strides(case, f"{prefix}kv_cache")
    fmt, element = cache.format, 1 if cache.format else 2
    row_bytes = fmt.quantized + 2 * (fmt.columns - fmt.quantized) if fmt else 0
    found = {
        "cache": ADDRESSES[f"{prefix}kv_cache"],
        "indices": ADDRESSES[f"{prefix}indices"] if cache.topk else 0,
        "slots": cache.slots,
        "by_page": schedule.divisor(cache.page_size),
        "page_size": cache.page_size,
        "wide_indices": int(case.index_dtype == "int64"),
    }
    if cache.num_blocks > 1:
        found["block_step"] = block * element
    if fmt:
        scale_bytes = fmt.tiles * (1 if fmt.scale == "e8m0" else 4) + fmt.padding
        found["row_step"] = row_bytes if fmt.split else fmt.token_bytes
        found["scales_at"] = cache.page_size * row_bytes if fmt.split else fmt.quantized
        found["scales_step"] = scale_bytes if fmt.split else fmt.token_bytes
    elif cache.page_size > 1:
        found["row_step"] = row * element
    varlen = case.cu_seqlens_q is not None
    extents = case.shapes()[f"{prefix}indices"][:-1]
    if varlen:
        found["indices_stride_b"] = 0
    for axis, extent, stride in zip("s" if varlen else "bs", extents, strides(case, f"{prefix}indices"), strict=False):
        if extent > 1 and cache.topk:
            found[f"indices_stride_{axis}"] = stride
    return {f"{prefix}{name}": value for name, value in found.items()}
