"""Rules of gather_kv that its table of tensors does not say: formats, columns, and the number of offsets."""

from __future__ import annotations

import c_abi
import invalid_calls as spoil
from argument_rules import Form, generated
from invalid_calls import LegalCall, Rule
from ops.append_kv import oracle
from ops.append_kv.invalid import another_dtype
from ops.gather_kv import calls, strategies

STARTS = (0, 1, 2)
COPIED = Form("", {"formats": ("bf16",)}, ("seq_starts",))
BYTES = {"formats": oracle.SCALED}
CODED = Form("codes", {"formats": ("fp8",), "descale": 0.1}, ("seq_starts", "descale_k"), packed=True)
QUANTIZED = Form("bytes", BYTES, ("seq_starts",), packed=True)


def legal_call(backend, draw, **base) -> LegalCall:
    """A legal call whose every extent counts."""
    case = draw(strategies.reads(backend, small=True, route="c", **base))
    pages = calls.Pages(case.but(starts=STARTS[: len(case.lengths)]), backend)
    pages.place_requests()
    out = pages.output(pages.case.num_tokens)
    return LegalCall(pages.c_call("gather_kv", out), {"out": out} | pages.inputs)


def rules() -> list[Rule]:
    """Those of every reader."""
    of_bytes = [
        Rule("h_kv", "UNSUPPORTED", r"shape\[2\] \(h_kv\) is 2", spoil.extents({"kv_cache": 2}, 2)),
        Rule("bytes of a token", "SHAPE", r"kv_cache\.shape\[3\]", spoil.extent("kv_cache", 3, lambda n: n + 16)),
        Rule("columns", "SHAPE", r"out\.shape\[1\] \(d_qk\)", spoil.extent("out", 1, lambda n: n - 8)),
        Rule("dtype of bytes", "DTYPE", r"kv_cache\.dtype is", another_dtype("kv_cache")),
        Rule("kv_format", "VALUE", "kv_format", spoil.field("kv_format", -1, 6, 2**31 - 1, -(2**31))),
    ]
    return [
        *(rule.on("bytes", BYTES) for rule in of_bytes),
        Rule(
            "columns of codes", "SHAPE", r"out\.shape\[1\] \(d_qk\)", spoil.extent("kv_cache", 3, lambda n: n + 16)
        ).on("codes", CODED.base),
        *(
            Rule("scale of another format", "VALUE", "^descale_k is given", spoil.scalar("descale_k", "out")).on(
                name, base
            )
            for name, base in (("", COPIED.base), ("bytes", BYTES))
        ),
        Rule("dtype of columns", "DTYPE", r"out\.dtype is .* equal", another_dtype("out")).on("", COPIED.base),
    ]


def odd_columns(call, _draw, _legal):
    """No multiple of 8, in both."""
    for name in ("kv_cache", "out"):
        spoil.explicit_strides(call.tensor(name))
        call.tensor(name).shape[-1] -= 4


OFFSETS = Rule("offsets", "SHAPE", r"must be batch \+ 1", spoil.extent("cu_seqlens", 0, lambda n: n + 1))
RULES = [
    *generated("gather_kv", [COPIED, QUANTIZED, CODED]),
    *rules(),
    Rule("multiple of 8", "UNSUPPORTED", "multiples of 8", odd_columns).on("", COPIED.base),
    OFFSETS.on("", COPIED.base),
    Rule("flags of writers", "FLAGS", "flags", spoil.field("flags", c_abi.flags(unrounded_scales=True))),
]
