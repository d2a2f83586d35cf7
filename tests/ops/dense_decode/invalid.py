"""Rules of dense_decode that its table of tensors does not say: between tensors and scalars, of plans and of shards.

Those of a decode step hold for plan_decode too.
"""

from __future__ import annotations

import math
from dataclasses import replace

import c_abi
import invalid_calls as spoil
from argument_rules import Form, generated
from invalid_calls import LegalCall, Rule, one_of
from ops.append_kv import oracle as formats
from ops.dense_decode import calls, strategies
from ops.dense_decode.case import Layouts

FIXED = Form("", {"with_lse": True, "h_kv": 2}, ("lse",))
VARLEN = Form("varlen", {"with_lse": True, "h_kv": 2, "varlen": True}, ("lse", "cu_seqlens_q"), varlen=True)
SHARD = Form("shard", {"with_lse": True, "h_kv": 2, "sharded": True}, ("lse", "global_seqlens"))
PARTED = Form("two parts", {"with_lse": True, "h_kv": 2, "parted": True}, ("lse", "q_rope"), parted=True)
PARTED_VARLEN = Form(
    "two parts, varlen",
    PARTED.base | {"varlen": True},
    ("lse", "q_rope", "cu_seqlens_q"),
    varlen=True,
    parted=True,
)
PARTED_CODES = Form(
    "two parts of codes",
    {"with_lse": True, "kv_format": "fp8", "q_dtype": "uint8", "parted": True},
    ("lse", "q_rope"),
    packed=True,
    coded=True,
    parted=True,
    only="cpu",
)
SINK = Form("sink", {"with_lse": True, "h_kv": 2, "sink": "some"}, ("lse", "attn_sink"))


PACKED = Form("bytes", {"with_lse": True, "kv_formats": formats.SCALED}, ("lse",), packed=True, only="cpu")
CODED = Form(
    "codes",
    {"with_lse": True, "kv_format": "fp8", "q_dtype": "uint8", "descale_q": 0.1, "descale_k": 0.2},
    ("lse", "descale_q", "descale_k"),
    packed=True,
    coded=True,
    only="cpu",
)


def legal_call(backend, draw, operation: str = "dense_decode", **base) -> LegalCall:
    """A legal call whose every extent counts."""
    tensors = calls.Tensors(draw(strategies.cases(backend, small=True, route="c", **base)), backend)
    written = {}
    if operation == "dense_decode":
        written = {"out": tensors.place("out"), "lse": tensors.place("lse")}
    call = tensors.c_call(operation, **written)
    status, size = call.size()
    assert status == 0, c_abi.last_error()
    scratch = tensors.scratch(size)
    call.give_scratch(tensors.adapter.address(scratch.tensor), size)
    return LegalCall(call, tensors.guarded | written | {"scratch": scratch}, facts=tensors)


def h_kv_that_does_not_divide(call, _draw, _legal):
    spoil.explicit_strides(call.tensors["kv_cache"])
    call.tensors["kv_cache"].shape[2] = call.tensors["q"].shape[-2] + 1


def all_float32(call, _draw, _legal):
    for name in {"q", "kv_cache", "out"} & set(call.tensors):
        call.tensors[name].dtype = c_abi.DTYPE_CODES["float32"]


def bad_scale(call, draw, _legal):
    call.fields["flags"] &= ~c_abi.constant("DEFAULT_SCALE")
    call.fields["softmax_scale"] = one_of(draw, (0.0, -0.0, -1.0, math.nan, math.inf, -math.inf))


def plan_of(**changes):
    """Gives the call a plan that was made for a case that differs."""

    def spoil(call, _draw, legal):
        case = legal.facts.case
        values = {name: change(getattr(case, name)) for name, change in changes.items()}
        other = calls.Tensors(case.but(plan="fresh", **values), legal.facts.backend)
        call.fields["plan"] = calls.make_plan(other).handle

    return spoil


def all_of_dtype(*names: str):
    """The tensors get a dtype of results that is another one than theirs."""

    def spoil_(call, draw, _legal):
        own = call.tensor(names[0]).dtype
        codes = [c_abi.DTYPE_CODES[name] for name in ("bfloat16", "float16", "float32")]
        dtype = spoil.one_of(draw, [code for code in codes if code != own])
        for name in names:
            if call.tensors.get(name) is not None:
                call.tensor(name).dtype = dtype

    return spoil_


def more_columns(name: str, by: int):
    return spoil.extent(name, 3, lambda n: n + by)


def other_columns(call, _draw, _legal):
    """q has as many as a row of another format."""
    spoil.explicit_strides(call.tensor("q"))
    call.tensor("q").shape[-1] ^= 576 ^ 512


def never_made(call, _draw, _legal):
    call.fields["plan"] = c_abi.new_plan()


def other_half(dtype: str) -> str:
    return "float16" if dtype != "float16" else "bfloat16"


def step_rules() -> list[Rule]:
    """Those of a plan as well."""
    latent = {"q": -1, "kv_cache": -1}
    fixed = [
        Rule("h_kv does not divide h_q", "SHAPE", "h_kv", h_kv_that_does_not_divide),
        Rule("d_qk", "UNSUPPORTED", "d_qk", spoil.extents(latent, 64, 192, 328, 584)),
        Rule("float32", "UNSUPPORTED", "float32", all_float32, "gpu"),
        Rule("window", "VALUE", "window", spoil.field("window", -1, -(2**31))),
        Rule("max_seqlen_q alone", "VALUE", "max_seqlen_q", spoil.field("max_seqlen_q", 1, -1, 2**31 - 1)),
    ]
    offsets = spoil.extent("cu_seqlens_q", 0, lambda n: n + 1)
    varlen = [
        Rule("h_kv does not divide h_q", "SHAPE", "h_kv", h_kv_that_does_not_divide),
        Rule("cu_seqlens_q is not batch + 1", "SHAPE", r"cu_seqlens_q\.shape\[0\]", offsets),
        Rule("max_seqlen_q", "VALUE", "max_seqlen_q", spoil.field("max_seqlen_q", 0, -1, -(2**31))),
        Rule("cu_seqlens_q null", "VALUE", "max_seqlen_q", spoil.no_tensor("cu_seqlens_q")),
    ]
    return [
        *(rule.on("", FIXED.base) for rule in fixed),
        *(rule.on("varlen", VARLEN.base) for rule in varlen),
        *(rule.on("two parts", PARTED.base) for rule in (*part_rules(), OTHER_CACHE)),
    ]


OTHER_CACHE = Rule(
    "other columns of the cache", "SHAPE", r"q_rope.* \(d_qk\) is 576; a row of kv_cache", more_columns("kv_cache", -64)
)


def widths(**columns: int):
    """Extents of the innermost axes."""

    def spoil_(call, _draw, _legal):
        for name, number in columns.items():
            if name in call.tensors:
                spoil.explicit_strides(call.tensor(name))
                call.tensor(name).shape[-1] = number

    return spoil_


def part_rules(caches: tuple[str, ...] = ("kv_cache",)) -> list[Rule]:
    """Of queries in two parts; those of a plan as well. The caches have the columns of both."""
    behind = dict.fromkeys(caches, 512)
    return [
        Rule(
            "columns of both parts",
            "UNSUPPORTED",
            r"q\.shape\[3\] \+ q_rope\.shape\[3\] \(d_qk\) is",
            widths(q_rope=72),
        ),
        Rule("all columns in q", "SHAPE", r"q\.shape\[3\] is 576 \(d_qk\); with q_rope", widths(q=576)),
        Rule("d_v of q", "UNSUPPORTED", r"q\.shape\[3\] \(d_v\) is 448", widths(q=448, out=448, q_rope=128)),
        Rule("no RoPE columns", "UNSUPPORTED", "q_rope is given", widths(q=448, out=448, q_rope=64, **behind)),
        Rule("RoPE columns alone", "UNSUPPORTED", "q_rope is given", widths(q=64, out=64, q_rope=448, **behind)),
    ]


WRONG_FORMATS = (-1, 6, 2**31 - 1, -(2**31))


def format_rules() -> list[Rule]:
    """Of a step on caches that are quantised, or said to be."""
    copied = [
        Rule("kv_format", "VALUE", r"\bkv_format", spoil.field("kv_format", *WRONG_FORMATS)),
        Rule("kv_format of bytes", "DTYPE", r"kv_cache\.dtype", spoil.field("kv_format", 1, 2, 3, 4)),
    ]
    packed = [
        Rule("kv_format", "VALUE", r"\bkv_format", spoil.field("kv_format", *WRONG_FORMATS)),
        Rule(
            "kv_format of no bytes",
            "DTYPE",
            r"kv_cache\.dtype is .*\bkv_format must name the format of the bytes",
            spoil.field("kv_format", 0),
        ),
        Rule("q of another dtype", "DTYPE", r"q\.dtype is .* must be bfloat16", all_of_dtype("q", "out")),
        Rule("q of other columns", "SHAPE", r"d_qk.* a row of kv_cache .* columns", other_columns),
        Rule("bytes of a token", "SHAPE", r"kv_cache\.shape\[3\]", more_columns("kv_cache", 16)),
        Rule("dtype of bytes", "DTYPE", r"kv_cache\.dtype is", all_of_dtype("kv_cache")),
        Rule("h_kv", "UNSUPPORTED", r"\(h_kv\) is 2", spoil.extents({"kv_cache": 2}, 2)),
    ]
    coded = [
        Rule("columns of codes", "UNSUPPORTED", r"\(row\) is .* multiples of 16", more_columns("kv_cache", 8)),
        Rule("q of other columns", "SHAPE", r"d_qk.* a row of kv_cache .* columns", more_columns("kv_cache", 16)),
        Rule("h_kv", "UNSUPPORTED", r"\(h_kv\) is 2", spoil.extents({"kv_cache": 2}, 2)),
    ]
    return [
        *(rule.on("", FIXED.base | {"dtype": "bfloat16"}) for rule in copied),
        *(replace(rule, only="cpu").on("bytes", PACKED.base) for rule in packed),
        *(replace(rule, only="cpu").on("codes", CODED.base) for rule in coded),
    ]


def plan_rules() -> list[Rule]:
    """A plan serves only calls with the facts it was made for."""
    more = {"s_q": "s_q", "num_blocks": "num_blocks", "max_blocks": "max_blocks"}
    rules = [
        Rule(f"plan of other {name}", "PLAN_MISMATCH", name, plan_of(**{field: lambda n: n + 1}))
        for name, field in more.items()
    ]
    rules += [
        Rule("plan never made", "PLAN_MISMATCH", "plan", never_made),
        Rule("plan of other window", "PLAN_MISMATCH", "window", plan_of(window=lambda n: n + 7)),
        Rule("plan of other batch", "PLAN_MISMATCH", "batch", plan_of(lengths=lambda lengths: (*lengths, 1))),
        Rule("plan of other h_q", "PLAN_MISMATCH", "h_q", plan_of(h_q=lambda n: 2 * n)),
        Rule("plan of other causal", "PLAN_MISMATCH", "causal|CAUSAL", plan_of(causal=lambda causal: not causal)),
        Rule("plan of other dtype", "PLAN_MISMATCH", "dtype", plan_of(dtype=other_half)),
        Rule("plan of other page_size", "PLAN_MISMATCH", "page_size", plan_of(page_size=lambda n: n + 1), "cpu"),
        Rule("plan of variable queries", "PLAN_MISMATCH", "cu_seqlens_q", plan_of(**TO_VARLEN)),
    ]
    varlen = [
        Rule("plan of fixed queries", "PLAN_MISMATCH", "cu_seqlens_q", plan_of(**TO_FIXED)),
        Rule("plan of other total_q", "PLAN_MISMATCH", "total_q", plan_of(total_q=lambda n: n + 1)),
        Rule("plan of other max_seqlen_q", "PLAN_MISMATCH", r"max_seqlen_q|total_q 2", plan_of_other_limit),
    ]
    return [rule.on("", FIXED.base) for rule in rules] + [rule.on("varlen", VARLEN.base) for rule in varlen]


def plan_of_other_limit(call, draw, legal):
    """As far as all query tokens reach: one token admits one limit."""
    case = legal.facts.case
    if case.total_q == 1:
        plan_of(total_q=lambda _: 2)(call, draw, legal)
    else:
        plan_of(s_q=lambda _: case.most_queries - 1 or 2)(call, draw, legal)


TO_VARLEN = {
    "cu_seqlens_q": lambda _: (0, 1, 2),
    "total_q": lambda _: 2,
    "lengths": lambda lengths: lengths[:2],
    "layouts": lambda _: Layouts(),
}
TO_FIXED = {"cu_seqlens_q": lambda _: None, "layouts": lambda _: Layouts()}


def own_rules() -> list[Rule]:
    """Of dense_decode alone."""
    fixed = [
        Rule("scale", "VALUE", "softmax_scale", bad_scale),
        Rule("d_v", "SHAPE", "d_v", spoil.extents({"out": 3}, 256)),
        Rule("d_v of another geometry", "SHAPE", "d_v", spoil.extents({"q": -1, "kv_cache": -1}, 320)),
        Rule("compute", "VALUE", r"\bcompute", spoil.field("compute", -1, 1, 2, 2**31 - 1)),
        Rule("scale of no codes", "VALUE", "^descale_k is given", spoil.scalar("descale_k", "q")),
        Rule("scale of no coded q", "VALUE", "^descale_q is given", spoil.scalar("descale_q", "q")),
        Rule("cp_rank without cp_world", "VALUE", "cp_rank", spoil.field("cp_rank", 1, -1)),
        Rule("cp_interleave without cp_world", "VALUE", "cp_interleave", spoil.field("cp_interleave", 16, -1)),
    ]
    shard = [
        Rule("global_seqlens null", "NULL_POINTER", "global_seqlens", spoil.no_tensor("global_seqlens")),
        Rule("cp_world", "VALUE", "cp_world", spoil.field("cp_world", 0, -1, -(2**31))),
        Rule("window of a shard", "UNSUPPORTED", "window", spoil.field("window", 1, 2**31 - 1)),
        Rule("cp_rank", "VALUE", "cp_rank", spoil.field("cp_rank", -1, 2**31 - 1, -(2**31))),
        Rule("cp_interleave", "VALUE", "cp_interleave", spoil.field("cp_interleave", 0, -1, -(2**31))),
    ]
    uncoded = CODED.base | {"q_dtype": None, "descale_q": None}
    return [
        *(rule.on("", FIXED.base) for rule in fixed),
        *(rule.on("shard", SHARD.base) for rule in shard),
        Rule("compute of codes", "VALUE", r"\bcompute", spoil.field("compute", -1, 2, 2**31 - 1, -(2**31))).on(
            "codes", CODED.base
        ),
        Rule("fp8 products of another format", "VALUE", r"\bcompute", spoil.field("compute", 1), "cpu").on(
            "bytes", PACKED.base
        ),
        Rule("scale of another format", "VALUE", "^descale_k is given", spoil.scalar("descale_k", "q"), "cpu").on(
            "bytes", PACKED.base
        ),
        Rule("scale of bfloat16 q", "VALUE", "^descale_q is given", spoil.scalar("descale_q", "q"), "cpu").on(
            "codes", uncoded
        ),
    ]


RULES = [
    *generated("dense_decode", [FIXED, VARLEN, SHARD, SINK, PACKED, CODED, PARTED, PARTED_VARLEN, PARTED_CODES]),
    *step_rules(),
    *format_rules(),
    *plan_rules(),
    *own_rules(),
]
