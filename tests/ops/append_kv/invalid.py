"""Rules of append_kv that its table of tensors does not say: formats, columns, scales, and pages of bytes."""

from __future__ import annotations

from hypothesis import strategies as st

import c_abi
import invalid_calls as spoil
from argument_rules import Form, generated
from invalid_calls import LegalCall, Rule
from ops.append_kv import calls, oracle, strategies

COPIED = Form("", {"formats": ("bf16",), "split": True}, ("rope",))
BYTES = {"formats": oracle.SCALED, "split": True}
CODES = {"formats": ("fp8",), "split": True, "descale": 0.1}
CODED = Form("codes", CODES, ("rope", "descale_k"), packed=True)
QUANTIZED = Form("bytes", BYTES, ("rope",), packed=True)
UNROUNDED = spoil.field("flags", c_abi.flags(unrounded_scales=True))
SPLIT_PAGES = {"formats": ("model1", "v41"), "split": True}


def legal_call(backend, draw, *, operation: str = "append_kv", cache: str = "kv_cache", **base) -> LegalCall:
    """A legal call whose every extent counts."""
    tokens = calls.Tokens(draw(strategies.writes(backend, small=True, route="c", **base)), backend)
    if operation == "append_kv":
        tokens.place_slots()
    call = tokens.c_call(operation, cache)
    return LegalCall(call, {cache: tokens.cache} | tokens.inputs)


def another_dtype(name: str):
    """Any that the library knows, but that of the tensor and those of `bytes`."""

    def spoil_(call, draw, _legal):
        own = call.tensor(name).dtype
        wrong = [c_abi.DTYPE_CODES[one] for one in ("bfloat16", "float16", "float32")]
        call.tensor(name).dtype = spoil.one_of(draw, [one for one in wrong if one != own])
        if name == "latent":
            call.tensor("rope").dtype = call.tensor("latent").dtype

    return spoil_


def fewer_columns(call, draw, _legal):
    """No multiple of 8, in the cache too."""
    name, by = draw(st.sampled_from((("latent", 1), ("rope", 4))))
    for tensor in (name, "kv_cache" if "kv_cache" in call.tensors else "out"):
        spoil.explicit_strides(call.tensor(tensor))
        call.tensor(tensor).shape[-1] -= by


def unaligned_border(call, _draw, _legal):
    """Eight columns from rope to latent."""
    for name, by in (("latent", 8), ("rope", -8)):
        spoil.explicit_strides(call.tensor(name))
        call.tensor(name).shape[1] += by


def rules(cache: str) -> list[Rule]:
    """Those of every writer; `cache`: what it writes."""
    of_bytes = [
        Rule("h_kv", "UNSUPPORTED", r"shape\[2\] \(h_kv\) is 2", spoil.extents({cache: 2}, 2)),
        Rule("bytes of a token", "SHAPE", rf"{cache}\.shape\[3\]", spoil.extent(cache, 3, lambda n: n + 16)),
        Rule("d_latent", "SHAPE", "d_latent", spoil.extent("latent", 1, lambda n: n - 16)),
        Rule("d_rope", "SHAPE", "d_rope", spoil.extent("rope", 1, lambda n: n + 8)),
        Rule("without rope", "SHAPE", "without rope", spoil.no_tensor("rope")),
        Rule("border of rope", "UNSUPPORTED", "multiples of 16", unaligned_border),
        Rule("dtype of bytes", "DTYPE", rf"{cache}\.dtype is", another_dtype(cache)),
        Rule("kv_format", "VALUE", "kv_format", spoil.field("kv_format", -1, 6, 2**31 - 1, -(2**31))),
    ]
    of_codes = [
        Rule(
            "columns of codes", "UNSUPPORTED", r"\(row\) is .* multiples of 16", spoil.extent(cache, 3, lambda n: n + 8)
        ),
        Rule("columns", "SHAPE", "d_latent", spoil.extent(cache, 3, lambda n: n + 16)),
        Rule("scale that is given", "VALUE", "has the scale that it is given", UNROUNDED),
    ]
    return [
        *(rule.on("bytes", BYTES) for rule in of_bytes),
        *(rule.on("codes", CODES) for rule in of_codes),
        Rule("scale of another format", "VALUE", "^descale_k is given", spoil.scalar("descale_k", "latent")).on(
            "bytes", BYTES
        ),
        Rule("scales that are powers of two", "VALUE", "powers of two", UNROUNDED).on("", SPLIT_PAGES),
    ]


RULES = [
    *generated("append_kv", [COPIED, QUANTIZED, CODED]),
    Rule("scale of no codes", "VALUE", "^descale_k is given", spoil.scalar("descale_k", "latent")).on("", COPIED.base),
    *rules("kv_cache"),
    Rule("no scales", "VALUE", "no scales", UNROUNDED).on("", COPIED.base),
    Rule("columns", "UNSUPPORTED", "supported are multiples of 8", fewer_columns).on("", COPIED.base),
    Rule("dtype of columns", "DTYPE", r"latent\.dtype is .* equal", another_dtype("latent")).on("", COPIED.base),
]
