"""Every rule that a legal call can be made to break, with the status it must get and the name the sentence must hold.

A row is one rule of flashmla.h; spoil.py holds the ways to break it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import c_abi
import calls
import spoil

DECODE_TENSORS = (*calls.INPUTS, "out", "lse")
LATENTS = ("q", "kv_cache", "out")  # rows of d_qk or d_v elements with the dtype of q
HUGE = 2**62  # elements: times two bytes and an extent of 2 it leaves 64 bits


@dataclass(frozen=True)
class Mutation:
    """One broken rule."""

    name: str
    status: str  # of flashmla_status, without FLASHMLA_ERROR_
    names: str  # regular expression that the sentence must contain
    spoil: Callable  # (CCall, draw, Tensors): breaks the rule
    operation: str = "dense_decode"
    only: str | None = None  # the one backend that has the rule


def _both(name: str, status: str, names: str, spoil: Callable) -> list[Mutation]:
    """A rule that the plan has as well."""
    operations = ("dense_decode", "plan_decode")
    return [Mutation(f"{operation}-{name}", status, names, spoil, operation) for operation in operations]


def _decode(name: str, status: str, names: str, spoil: Callable, only: str | None = None) -> list[Mutation]:
    return [Mutation(f"dense_decode-{name}", status, names, spoil, only=only)]


def _plan(name: str, status: str, names: str, spoil: Callable) -> list[Mutation]:
    return [Mutation(f"plan_decode-{name}", status, names, spoil, "plan_decode")]


def _params_rules() -> list[Mutation]:
    """Rules on the params struct and its scalars."""
    known = c_abi.constant("CAUSAL") | c_abi.constant("DEFAULT_SCALE")
    unknown = [1 << bit for bit in range(32) if not known >> bit & 1]
    return [
        *_both("null params", "NULL_POINTER", "params", spoil.no_params),
        *_both("struct_size", "STRUCT_SIZE", "struct_size", spoil.struct_size(0, 1, 8, -1, -8)),
        *_both("struct_size uninitialised", "STRUCT_SIZE", "struct_size", spoil.struct_size(0xCDCDCDCD, 2**32 - 1)),
        *_both("unknown tail", "STRUCT_SIZE", "struct_size", spoil.tail),
        *_both("flags", "FLAGS", "flags", spoil.field("flags", *unknown, 2**32 - 1)),
        *_decode("scale", "VALUE", "softmax_scale", spoil.bad_scale),
        *_decode("num_threads", "VALUE", "num_threads", spoil.field("num_threads", -1, -(2**31))),
        *_decode("workspace null", "NULL_POINTER", "workspace", spoil.field("workspace", 0)),
        *_decode("workspace address", "ALIGNMENT", "workspace", spoil.scratch_off("workspace")),
        *_decode("workspace size", "WORKSPACE_TOO_SMALL", "workspace_size", spoil.scratch_small("workspace_size")),
        *_plan("num_splits", "VALUE", "num_splits", spoil.field("num_splits", -1, 1025, 2**31 - 1, -(2**31))),
        *_plan("reserved", "VALUE", "reserved", spoil.field("reserved", 1, 2**32 - 1)),
        *_plan("buffer null", "NULL_POINTER", "buffer", spoil.field("buffer", 0)),
        *_plan("buffer address", "ALIGNMENT", "buffer", spoil.scratch_off("buffer")),
        *_plan("buffer size", "WORKSPACE_TOO_SMALL", "buffer_size", spoil.scratch_small("buffer_size")),
    ]


def _tensor_rules() -> list[Mutation]:
    """Rules that every tensor has: present, rank, dtype, device, address."""
    wrong_dtypes = {
        "q": ((2, 64, 1), (0, 16, 1), (4, 16, 2), (2, 16, 0), (3, 16, 1)),
        "kv_cache": ("bfloat16", "float16", "float32", (1, 8, 1), (2, 16, 4)),
        "block_table": ((0, 64, 1), (1, 32, 1), "float32", (0, 32, 2)),
        "cache_seqlens": ((0, 64, 1), (1, 32, 1), "float32", (0, 16, 1)),
        "out": ("bfloat16", "float16", "float32"),
        "lse": ("bfloat16", "float16", (2, 64, 1), "int32"),
    }
    rules: list[Mutation] = []
    for name in DECODE_TENSORS:
        rule = _both if name in calls.INPUTS else _decode
        if name != "lse":  # a NULL lse is legal: not wanted
            rules += rule(f"{name} null", "NULL_POINTER", name, spoil.no_tensor(name))
        rules += rule(f"{name} shape null", "NULL_POINTER", f"{name}.*shape", spoil.null_shape(name))
        rules += rule(f"{name} rank", "SHAPE", rf"{name}\.ndim", spoil.attribute(name, "ndim", 0, -1, 5, 2**31 - 1))
        rules += rule(f"{name} dtype", "DTYPE", f"{name}.dtype", spoil.dtype_of(name, *wrong_dtypes[name]))
        rules += rule(f"{name} mixed device", "MIXED_DEVICES", name, spoil.other_device(name))
        off = (1, 2) if name in {"block_table", "cache_seqlens", "lse"} else (2, 8)
        reads_memory = _decode if name != "cache_seqlens" else _both
        rules += reads_memory(f"{name} data null", "NULL_POINTER", rf"{name}\.data", spoil.attribute(name, "data", 0))
        rules += reads_memory(f"{name} address", "ALIGNMENT", name, spoil.misplaced(name, *off))
    return [
        *rules,
        *_both("device type", "DEVICE", "device", spoil.everywhere("device", (12, 0))),
    ]


def _shape_rules() -> list[Mutation]:
    """Rules on extents: positive, in agreement, supported, and small enough."""
    rules: list[Mutation] = []
    for name, axis in (("q", 2), ("q", 3), ("kv_cache", 0), ("kv_cache", 1), ("kv_cache", 2), ("block_table", 1)):
        for value in (0, -1):
            broken = spoil.extent(name, axis, lambda _, value=value: value)
            rules += _both(f"{name} extent {axis} is {value}", "ZERO_EXTENT", rf"{name}\.shape\[{axis}\]", broken)
    for name, axis in (("q", 0), ("kv_cache", 0), ("block_table", 1)):
        broken = spoil.extent(name, axis, lambda _: 2**31)
        rules += _both(f"{name} extent {axis} above int32", "OVERFLOW", rf"{name}\.shape\[{axis}\]", broken)
    for name, axis in (("block_table", 0), ("cache_seqlens", 0), ("kv_cache", 3)):
        broken = spoil.extent(name, axis, lambda n: n + 1)
        rules += _both(f"{name} extent {axis} differs", "SHAPE", rf"{name}\.shape\[{axis}\]", broken)
    for name, axes in (("out", (0, 1, 2)), ("lse", (0, 1, 2))):
        for axis in axes:
            broken = spoil.extent(name, axis, lambda n: n + 1)
            rules += _decode(f"{name} extent {axis} differs", "SHAPE", rf"{name}\.shape\[{axis}\]", broken)
    return [
        *rules,
        *_both("negative batch", "ZERO_EXTENT", r"q\.shape\[0\]", spoil.extent("q", 0, lambda _: -1)),
        *_both("h_kv does not divide h_q", "SHAPE", "h_kv", spoil.h_kv_that_does_not_divide),
        *_both("d_qk", "UNSUPPORTED", "d_qk", spoil.latent_extent(512)),
        *_decode("d_v", "UNSUPPORTED", "d_v", spoil.extent("out", 3, lambda _: 256)),
        *_decode("page_size on CUDA", "UNSUPPORTED", "page_size", spoil.extent("kv_cache", 1, lambda _: 32), "gpu"),
        *_decode("float32 on CUDA", "UNSUPPORTED", "float32", spoil.all_float32, "gpu"),
    ]


def _stride_rules() -> list[Mutation]:
    """Rules on strides: innermost 1, positive, aligned, outputs without overlap, offsets within 64 bits."""
    rules: list[Mutation] = []
    for name, inner in (("q", 3), ("kv_cache", 3), ("out", 3), ("block_table", 1)):
        rules += _decode(
            f"{name} innermost stride", "STRIDE", rf"{name}\.strides", spoil.stride(name, inner, 0, 2, -1, 16)
        )
    for name, axis in (("q", 0), ("q", 1), ("q", 2), ("kv_cache", 0), ("kv_cache", 1), ("out", 2), ("lse", 0)):
        label, where = f"{name} stride {axis}", rf"{name}\.strides\[{axis}\]"
        rules += _decode(f"{label} not positive", "STRIDE", where, spoil.stride(name, axis, 0, -8, -576))
        rules += _decode(f"{label} overflows", "OVERFLOW", where, spoil.stride(name, axis, HUGE, 2**63 - 8))
        if name in LATENTS:
            rules += _decode(f"{label} unaligned", "ALIGNMENT", where, spoil.stride(name, axis, 577, 1154, 4097))
    return [
        *rules,
        *_both("cache_seqlens stride", "STRIDE", r"cache_seqlens\.strides", spoil.stride("cache_seqlens", 0, 0, 2, -1)),
        *_decode("out overlaps in tokens", "STRIDE", r"out\.strides", spoil.overlap("out", 1)),
        *_decode("out overlaps in heads", "STRIDE", r"out\.strides", spoil.overlap("out", 2)),
        *_decode("lse overlaps in tokens", "STRIDE", r"lse\.strides", spoil.overlap("lse", 2)),
    ]


def _plan_rules() -> list[Mutation]:
    """A plan serves only calls with the facts it was made for."""
    more = {"s_q": lambda n: n + 1, "num_blocks": lambda n: n + 1, "max_blocks": lambda n: n + 1}
    rules = [
        rule
        for name, change in more.items()
        for rule in _decode(f"plan of other {name}", "PLAN_MISMATCH", name, spoil.plan_of(**{name: change}))
    ]
    return [
        *rules,
        *_decode("plan never made", "PLAN_MISMATCH", "plan", spoil.never_made),
        *_decode("plan of other batch", "PLAN_MISMATCH", "batch", spoil.plan_of(lengths=lambda lengths: (*lengths, 1))),
        *_decode("plan of other h_q", "PLAN_MISMATCH", "h_q", spoil.plan_of(h_q=lambda n: 2 * n)),
        *_decode(
            "plan of other causal", "PLAN_MISMATCH", "causal|CAUSAL", spoil.plan_of(causal=lambda causal: not causal)
        ),
        *_decode("plan of other dtype", "PLAN_MISMATCH", "dtype", spoil.plan_of(dtype=_other_half)),
        *_decode(
            "plan of other page_size",
            "PLAN_MISMATCH",
            "page_size",
            spoil.plan_of(page_size=lambda n: n + 1),
            only="cpu",
        ),
    ]


def _other_half(dtype: str) -> str:
    return "float16" if dtype != "float16" else "bfloat16"


ALL = [*_params_rules(), *_tensor_rules(), *_shape_rules(), *_stride_rules(), *_plan_rules()]
