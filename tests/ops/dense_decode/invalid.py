"""Every rule that a legal call can be made to break, with the status it must get and the name the sentence must hold.

Those of plan_decode, most of which are the same, are here too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import c_abi
import invalid_calls as spoil
from invalid_calls import LegalCall, Rule
from ops.dense_decode import calls, strategies
from ops.dense_decode.case import INPUTS, Layouts

DECODE_TENSORS = (*INPUTS, "out", "lse")
LATENTS = ("q", "kv_cache", "out")  # rows of d_qk or d_v elements with the dtype of q
HUGE = 2**62  # elements: times two bytes and an extent of 2 it leaves 64 bits


@dataclass(frozen=True)
class Mutation(Rule):
    """A rule of dense_decode or of plan_decode."""

    operation: str = "dense_decode"


def legal_call(backend, draw, operation: str = "dense_decode", **base) -> LegalCall:
    """A legal call whose every extent counts."""
    tensors = calls.Tensors(draw(strategies.cases(backend, small=True, route="c", with_lse=True, **base)), backend)
    written = {}
    if operation == "dense_decode":
        written = {"out": tensors.place("out"), "lse": tensors.place("lse")}
    call = tensors.c_call(operation, **written)
    status, size = call.size()
    assert status == 0, c_abi.last_error()
    scratch = tensors.scratch(size)
    call.give_scratch(tensors.adapter.address(scratch.tensor), size)
    return LegalCall(call, tensors.guarded | written | {"scratch": scratch}, facts=tensors)


def other_half_out(call, _draw, legal):
    """An output of neither q's dtype nor float32."""
    other = "float16" if legal.facts.case.dtype == "bfloat16" else "bfloat16"
    call.tensors["out"].dtype = c_abi.DTYPE_CODES[other]


def plan_of(**changes):
    """Gives the call a plan that was made for a case that differs."""

    def spoil(call, _draw, legal):
        tensors = legal.facts
        case = tensors.case
        values = {name: change(getattr(case, name)) for name, change in changes.items()}
        call.fields["plan"] = calls.make_plan(calls.Tensors(case.but(plan="fresh", **values), tensors.backend)).handle

    return spoil


def _both(name: str, status: str, names: str, spoil: Callable, only: str | None = None) -> list[Mutation]:
    """A rule that the plan has as well."""
    operations = ("dense_decode", "plan_decode")
    return [Mutation(name, status, names, spoil, only, operation=operation) for operation in operations]


def _decode(name: str, status: str, names: str, spoil: Callable, only: str | None = None) -> list[Mutation]:
    return [Mutation(name, status, names, spoil, only)]


def _plan(name: str, status: str, names: str, spoil: Callable) -> list[Mutation]:
    return [Mutation(name, status, names, spoil, operation="plan_decode")]


def _params_rules() -> list[Mutation]:
    """Rules on the params struct and its scalars."""
    known = c_abi.flags(causal=1, default_scale=1, lse_base2=1, empty_lse_minus=1, batch_invariant=1)
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
        *_plan("splits and invariance", "VALUE", "num_splits", spoil.invariant_splits),
        *_plan("reserved", "VALUE", "reserved", spoil.field("reserved", 1, 2**32 - 1)),
        *_plan("reserved2", "VALUE", "reserved2", spoil.field("reserved2", 1, 2**32 - 1)),
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
        "out": ((2, 64, 1), "int32", (4, 16, 2)),
        "lse": ("bfloat16", "float16", (2, 64, 1), "int32"),
    }
    rules: list[Mutation] = []
    for name in DECODE_TENSORS:
        rule = _both if name in INPUTS else _decode
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
        *_decode("out dtype is the other half", "DTYPE", r"out\.dtype", other_half_out),
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
        *_both("d_qk", "UNSUPPORTED", "d_qk", spoil.latent_extent(64, 192, 328, 584)),
        *_decode("d_v", "UNSUPPORTED", "d_v", spoil.extent("out", 3, lambda _: 256)),
        *_decode("d_v of another geometry", "UNSUPPORTED", "d_v", spoil.latent_extent(320)),
        *_both("page_size on CUDA", "UNSUPPORTED", "page_size", spoil.page_size(3, 48, 65, 96), "gpu"),
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
        for rule in _decode(f"plan of other {name}", "PLAN_MISMATCH", name, plan_of(**{name: change}))
    ]
    return [
        *rules,
        *_decode("plan never made", "PLAN_MISMATCH", "plan", spoil.never_made),
        *_decode("plan of other batch", "PLAN_MISMATCH", "batch", plan_of(lengths=lambda lengths: (*lengths, 1))),
        *_decode("plan of other h_q", "PLAN_MISMATCH", "h_q", plan_of(h_q=lambda n: 2 * n)),
        *_decode("plan of other causal", "PLAN_MISMATCH", "causal|CAUSAL", plan_of(causal=lambda causal: not causal)),
        *_decode("plan of other dtype", "PLAN_MISMATCH", "dtype", plan_of(dtype=_other_half)),
        *_decode(
            "plan of other page_size",
            "PLAN_MISMATCH",
            "page_size",
            plan_of(page_size=lambda n: n + 1),
            only="cpu",
        ),
    ]


def _other_half(dtype: str) -> str:
    return "float16" if dtype != "float16" else "bfloat16"


def _integers_rules(name: str, rule: Callable) -> list[Mutation]:
    """Rules on a contiguous int32 tensor that not every call has."""
    wrong = ((0, 64, 1), (1, 32, 1), "float32", (0, 32, 2))
    return [
        *rule(f"{name} shape null", "NULL_POINTER", f"{name}.*shape", spoil.null_shape(name)),
        *rule(f"{name} rank", "SHAPE", rf"{name}\.ndim", spoil.attribute(name, "ndim", 0, -1, 2)),
        *rule(f"{name} dtype", "DTYPE", f"{name}.dtype", spoil.dtype_of(name, *wrong)),
        *rule(f"{name} mixed device", "MIXED_DEVICES", name, spoil.other_device(name)),
        *rule(f"{name} data null", "NULL_POINTER", rf"{name}\.data", spoil.attribute(name, "data", 0)),
        *rule(f"{name} address", "ALIGNMENT", name, spoil.misplaced(name, 1, 2)),
        *rule(f"{name} stride", "STRIDE", rf"{name}\.strides", spoil.stride(name, 0, 0, 2, -1)),
        *rule(f"{name} extent", "SHAPE", rf"{name}\.shape\[0\]", spoil.extent(name, 0, lambda n: n + 1)),
        *rule(f"{name} negative extent", "ZERO_EXTENT", rf"{name}\.shape\[0\]", spoil.extent(name, 0, lambda _: -1)),
    ]


def _query_rules() -> list[Mutation]:
    """Rules on variable-length queries."""
    plain = [
        *_both("max_seqlen_q alone", "VALUE", "max_seqlen_q", spoil.field("max_seqlen_q", 1, -1, 2**31 - 1)),
        *_decode("plan of variable queries", "PLAN_MISMATCH", "cu_seqlens_q", plan_of(**TO_VARLEN)),
    ]
    rules = [
        *_integers_rules("cu_seqlens_q", _both),
        *_both("max_seqlen_q", "VALUE", "max_seqlen_q", spoil.field("max_seqlen_q", 0, -1, -(2**31))),
        *_both("cu_seqlens_q null", "VALUE", "max_seqlen_q", spoil.no_tensor("cu_seqlens_q")),
        *_both("total_q negative", "ZERO_EXTENT", r"q\.shape\[0\]", spoil.extent("q", 0, lambda _: -1)),
        *_both("total_q above int32", "OVERFLOW", r"q\.shape\[0\]", spoil.extent("q", 0, lambda _: 2**31)),
        *_decode("plan of fixed queries", "PLAN_MISMATCH", "cu_seqlens_q", plan_of(**TO_FIXED)),
        *_decode("plan of other max_seqlen_q", "PLAN_MISMATCH", "max_seqlen_q", plan_of(s_q=lambda n: n + 1)),
    ]
    for name, axis in (("out", 0), ("out", 1), ("lse", 0), ("lse", 1)):
        broken = spoil.extent(name, axis, lambda n: n + 1)
        rules += _decode(f"{name} extent {axis} differs", "SHAPE", rf"{name}\.shape\[{axis}\]", broken)
    for name in ("q", "out", "lse"):
        rule = _both if name == "q" else _decode
        rules += rule(f"{name} rank", "SHAPE", rf"{name}\.ndim", spoil.attribute(name, "ndim", 1, 4, 5))
    for name, axis in (("q", 0), ("q", 1), ("out", 0), ("out", 1)):
        where = rf"{name}\.strides\[{axis}\]"
        rules += _decode(f"{name} stride {axis} unaligned", "ALIGNMENT", where, spoil.stride(name, axis, 577, 4097))
        rules += _decode(f"{name} stride {axis} not positive", "STRIDE", where, spoil.stride(name, axis, 0, -8))
    rules += _decode("out overlaps", "STRIDE", r"out\.strides", spoil.overlap("out", 1))
    rules += _decode("lse overlaps", "STRIDE", r"lse\.strides", spoil.overlap("lse", 1))
    return plain + [_on(rule, "varlen", varlen=True) for rule in rules]


def _shard_rules() -> list[Mutation]:
    """Rules on context parallelism."""
    alone = [
        *_decode("cp_rank without cp_world", "VALUE", "cp_rank", spoil.field("cp_rank", 1, -1)),
        *_decode("cp_interleave without cp_world", "VALUE", "cp_interleave", spoil.field("cp_interleave", 16, -1)),
    ]
    rules = [
        *_integers_rules("global_seqlens", _decode),
        *_decode("global_seqlens null", "NULL_POINTER", "global_seqlens", spoil.no_tensor("global_seqlens")),
        *_decode("cp_world", "VALUE", "cp_world", spoil.field("cp_world", 0, -1, -(2**31))),
        *_decode("cp_rank", "VALUE", "cp_rank", spoil.field("cp_rank", -1, 2**31 - 1, -(2**31))),
        *_decode("cp_interleave", "VALUE", "cp_interleave", spoil.field("cp_interleave", 0, -1, -(2**31))),
    ]
    return alone + [_on(rule, "shard", sharded=True) for rule in rules]


def _on(rule: Mutation, kind: str, **base) -> Mutation:
    """The rule broken in another kind of call."""
    return replace(rule, name=f"{rule.name} ({kind})", base=base)


TO_VARLEN = {
    "cu_seqlens_q": lambda _: (0, 1, 2),
    "total_q": lambda _: 2,
    "lengths": lambda lengths: lengths[:2],
    "layouts": lambda _: Layouts(),
}
TO_FIXED = {"cu_seqlens_q": lambda _: None, "layouts": lambda _: Layouts()}
ALL: list[Mutation] = [
    *_params_rules(),
    *_tensor_rules(),
    *_shape_rules(),
    *_stride_rules(),
    *_plan_rules(),
    *_query_rules(),
    *_shard_rules(),
]
RULES = [rule for rule in ALL if rule.operation == "dense_decode"]
