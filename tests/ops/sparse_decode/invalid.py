"""Rules of sparse_decode that its table of tensors does not say: formats, the second selection, and scalars."""

from __future__ import annotations

import math
from dataclasses import replace

import c_abi
import invalid_calls as spoil
from argument_rules import Form, generated
from buffers import COMPACT
from invalid_calls import LegalCall, Rule
from ops.append_kv import oracle as formats
from ops.dense_decode import calls as dense_calls
from ops.dense_decode.case import Case as DenseCase
from ops.dense_decode.invalid import WRONG_FORMATS, all_of_dtype, bad_scale, more_columns, part_rules
from ops.sparse_decode import calls, strategies
from ops.sparse_decode.case import SparseCase, SparseLayouts

BOTH = ("topk_length", "attn_sink", "lse", "extra_kv_cache", "extra_indices", "extra_topk_length")
COPIED = {"with_lse": True, "kv_formats": ("bf16",)}
BYTES = {"with_lse": True, "kv_formats": formats.SCALED}
CODES = {"with_lse": True, "kv_formats": ("fp8",), "scaled": True}
FIXED = Form("", COPIED | {"twofold": True}, BOTH)
VARLEN = Form("varlen", COPIED | {"twofold": True, "varlen": True}, (*BOTH, "cu_seqlens_q"), varlen=True)
PARTED = Form("two parts", COPIED | {"twofold": True, "parted": True, "d_qk": 576}, (*BOTH, "q_rope"), parted=True)
PACKED = Form("bytes", BYTES | {"twofold": True}, BOTH, packed=True)
SCALES = ("descale_k", "extra_descale_k")
CODED = Form("codes", CODES | {"twofold": True}, (*BOTH, *SCALES), packed=True, only="cpu")
CACHES = ("kv_cache", "extra_kv_cache")


def legal_call(backend, draw, operation: str = "sparse_decode", **base) -> LegalCall:
    """A legal call whose every extent counts."""
    tensors = calls.Tensors(draw(strategies.cases(backend, small=True, route="c", **base)), backend)
    written = {}
    if operation == "sparse_decode":
        written = {"out": tensors.place("out"), "lse": tensors.place("lse")}
    call = tensors.c_call(**written) if written else tensors.c_plan_call()
    scratch = tensors.give_scratch(call)
    return LegalCall(call, tensors.guarded | written | {"scratch": scratch}, facts=tensors)


def without(*names: str, **fields: int):
    """Some tensors are left out, and fields set."""

    def spoil_(call, _draw, _legal):
        call.tensors |= dict.fromkeys(names)
        call.fields |= fields

    return spoil_


def more_tokens_than_an_int32(name: str):
    """The same page again and again."""

    def spoil_(call, _draw, _legal):
        cache = call.tensor(name)
        _, *steps = cache.strides or [math.prod(cache.shape[i + 1 :]) for i in range(4)]
        cache.shape, cache.strides = [2**31 // cache.shape[1] + 1, *cache.shape[1:]], [0, *steps]

    return spoil_


def plan_of(change):
    """Gives the call a plan that was made for the case that `change` makes of its own."""

    def spoil_(call, _draw, legal):
        other = calls.Tensors(change(legal.facts.case).but(plan="fresh"), legal.facts.backend)
        call.fields["plan"] = calls.make_plan(other).handle

    return spoil_


def plan_of_dense_decode(call, _draw, legal):
    case = legal.facts.case
    dense = DenseCase(dtype=case.dtype, d_qk=case.d_qk, lengths=(1,) * case.batch)
    call.fields["plan"] = dense_calls.make_plan(dense_calls.Tensors(dense, legal.facts.backend)).handle


def never_made(call, _draw, _legal):
    call.fields["plan"] = c_abi.new_plan()


def with_caches(case: SparseCase, change, **changes) -> SparseCase:
    """The case with both of its caches changed, compact, and other facts."""
    main, extra = (change(cache).but(indices_layout=COMPACT) for cache in (case.main, case.extra))
    return case.but(main=main, extra=extra, layouts=SparseLayouts(), **changes)


def one_request_more(case: SparseCase) -> SparseCase:
    offsets = case.cu_seqlens_q and (*case.cu_seqlens_q, case.total_q)
    return with_caches(
        case, lambda cache: cache.but(lengths=(*cache.lengths, 1)), batch=case.batch + 1, cu_seqlens_q=offsets
    )


def packed(case: SparseCase) -> SparseCase:
    """With variable-length queries."""
    offsets = tuple(case.s_q * i for i in range(case.batch + 1))
    return with_caches(case, lambda cache: cache, cu_seqlens_q=offsets, total_q=offsets[-1])


def other_half(case: SparseCase) -> SparseCase:
    return case.but(dtype="float16" if case.dtype != "float16" else "bfloat16")


OF_STEPS = [  # of a plan as well
    Rule("max_seqlen_q alone", "VALUE", "max_seqlen_q", spoil.field("max_seqlen_q", 1, -1, 2**31 - 1)),
]
ONE = [  # in a call on caches that are not quantised
    Rule("h_q", "UNSUPPORTED", "h_q", spoil.extents({"q": 2, "out": 2, "lse": 1, "attn_sink": 0}, 129, 200, 2**31 - 1)),
    Rule("d_qk", "UNSUPPORTED", "d_qk", spoil.extents(dict.fromkeys(("q", *CACHES), -1), 64, 192, 328, 584)),
    Rule("d_v", "SHAPE", "d_v", spoil.extents({"out": 3}, 64, 384)),
    Rule("scale", "VALUE", "softmax_scale", bad_scale),
    Rule("reserved", "VALUE", "reserved", spoil.field("reserved", 1, 2**32 - 1)),
    Rule("float", "UNSUPPORTED", "float16|float32", all_of_dtype("q", "out", *CACHES), only="gpu"),
    Rule("extra_indices null", "NULL_POINTER", "extra_indices is NULL", without("extra_indices")),
    Rule("extra_kv_cache null", "NULL_POINTER", "extra_kv_cache is NULL", without("extra_kv_cache")),
    Rule(
        "extra_topk_length alone",
        "VALUE",
        "extra_topk_length is given",
        without("extra_kv_cache", "extra_indices"),
    ),
    *(
        Rule(f"{name} has other columns", "SHAPE", rf"d_qk.* a row of {name} .* columns", more_columns(name, 8))
        for name in CACHES
    ),
    *(Rule(f"{name} has another dtype", "DTYPE", rf"{name}\.dtype is .* equal", all_of_dtype(name)) for name in CACHES),
]
OF_BYTES = [
    Rule("q of another dtype", "DTYPE", r"q\.dtype is .* must be bfloat16", all_of_dtype("q", "out")),
    Rule("extra_kv_format alone", "VALUE", "extra_kv_format", without("extra_kv_cache", "extra_indices")),
    *(Rule(f"bytes of a token of {name}", "SHAPE", rf"{name}\.shape\[3\]", more_columns(name, 16)) for name in CACHES),
    *(Rule(f"dtype of bytes of {name}", "DTYPE", rf"{name}\.dtype is", all_of_dtype(name)) for name in CACHES),
    *(
        Rule(f"{name} of no bytes", "DTYPE", rf"{name} must name the format of the bytes", spoil.field(name, 0))
        for name in ("kv_format", "extra_kv_format")
    ),
]
OF_CODES = [
    Rule(
        "extra_descale_k alone",
        "VALUE",
        "extra_descale_k is given; without",
        without("extra_kv_cache", "extra_indices", "extra_topk_length", extra_kv_format=0),
    ),
    *(
        Rule(f"columns of {name}", "SHAPE", rf"d_qk.* a row of {name} .* columns", more_columns(name, 16))
        for name in CACHES
    ),
]
OF_ALL = [
    *(
        Rule(f"tokens of {name}", "OVERFLOW", rf"{name} has room for", more_tokens_than_an_int32(name), only="gpu")
        for name in CACHES
    ),
    Rule("h_kv", "UNSUPPORTED", r"\(h_kv\) is 2", spoil.extents(dict.fromkeys(CACHES, 2), 2)),
    *(
        Rule(name, "VALUE", rf"\b{name}", spoil.field(name, *WRONG_FORMATS))
        for name in ("kv_format", "extra_kv_format")
    ),
]
OF_OFFSETS = [
    Rule(
        "cu_seqlens_q is not batch + 1",
        "SHAPE",
        r"cu_seqlens_q\.shape\[0\]",
        spoil.extent("cu_seqlens_q", 0, lambda n: n + 1),
    ),
    Rule("max_seqlen_q", "VALUE", "max_seqlen_q", spoil.field("max_seqlen_q", 0, -1, -(2**31))),
    Rule("cu_seqlens_q null", "VALUE", "max_seqlen_q", spoil.no_tensor("cu_seqlens_q")),
]
OF_PLANS = [
    Rule("plan never made", "PLAN_MISMATCH", "plan was never made", never_made),
    Rule("plan of dense_decode", "PLAN_MISMATCH", "plan_sparse_decode", plan_of_dense_decode),
    Rule("plan of other batch", "PLAN_MISMATCH", "batch", plan_of(one_request_more)),
    Rule("plan of other h_q", "PLAN_MISMATCH", "h_q", plan_of(lambda case: case.but(h_q=case.h_q + 1))),
    Rule(
        "plan of other d_qk",
        "PLAN_MISMATCH",
        "d_qk",
        plan_of(lambda case: case.but(d_qk=512 if case.d_qk == 576 else 576)),
    ),
    Rule(
        "plan of other topk",
        "PLAN_MISMATCH",
        r"\btopk .* indices\.shape",
        plan_of(lambda case: case.but(topk=case.main.topk + 1)),
    ),
    Rule(
        "plan of other extra_topk",
        "PLAN_MISMATCH",
        r"extra_topk .* extra_indices\.shape",
        plan_of(lambda case: case.but(extra=case.extra.but(topk=case.extra.topk + 1))),
    ),
    Rule("plan of one selection", "PLAN_MISMATCH", "extra_topk", plan_of(lambda case: case.but(extra=None))),
    Rule("plan of other dtype", "PLAN_MISMATCH", "dtype", plan_of(other_half), only="cpu"),
    Rule(
        "plan of other batch invariance",
        "PLAN_MISMATCH",
        "BATCH_INVARIANT|batch.invariant",
        plan_of(lambda case: case.but(batch_invariant=not case.batch_invariant)),
        only="cpu",
    ),
]
OF_FIXED_PLANS = [
    Rule("plan of other s_q", "PLAN_MISMATCH", "s_q", plan_of(lambda case: case.but(s_q=case.s_q + 1))),
    Rule("plan of variable queries", "PLAN_MISMATCH", "cu_seqlens_q", plan_of(packed)),
]
OF_VARLEN_PLANS = [
    Rule("plan of other total_q", "PLAN_MISMATCH", "total_q", plan_of(lambda case: case.but(total_q=case.total_q + 1))),
    Rule(
        "plan of other max_seqlen_q",
        "PLAN_MISMATCH",
        "max_seqlen_q",
        plan_of(lambda case: case.but(s_q=case.most_queries - 1)),
    ),
    Rule(
        "plan of fixed queries",
        "PLAN_MISMATCH",
        "cu_seqlens_q",
        plan_of(lambda case: with_caches(case, lambda cache: cache, cu_seqlens_q=None)),
    ),
]
RULES = [
    *(rule.on(form.name, form.base) for rule in OF_PLANS for form in (FIXED, VARLEN)),
    *(rule.on("", FIXED.base) for rule in OF_FIXED_PLANS),
    *(rule.on("varlen", VARLEN.base) for rule in OF_VARLEN_PLANS),
    *generated("sparse_decode", [FIXED, VARLEN, PACKED, CODED, PARTED]),
    *(
        Rule(f"{name} of no codes", "VALUE", f"^{name} is given", spoil.scalar(name, "q")).on(form.name, form.base)
        for name in SCALES
        for form in (FIXED, PACKED)
    ),
    *(replace(rule, only="cpu").on("codes", CODED.base) for rule in OF_CODES),
    *(rule.on("", FIXED.base) for rule in (*OF_STEPS, *ONE)),
    *(rule.on("two parts", PARTED.base) for rule in part_rules(CACHES)),
    *(rule.on("bytes", PACKED.base) for rule in OF_BYTES),
    *(rule.on(form.name, form.base) for rule in OF_ALL for form in (FIXED, PACKED)),
    *(rule.on("varlen", VARLEN.base) for rule in OF_OFFSETS),
]
