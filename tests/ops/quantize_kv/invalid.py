"""Rules of quantize_kv: those of append_kv, and that there is room and something to quantise."""

from __future__ import annotations

import c_abi
import invalid_calls as spoil
from argument_rules import Form, generated
from invalid_calls import LegalCall, Rule
from ops.append_kv import invalid as appending

FORM = Form("", appending.BYTES, ("rope",), packed=True)


def legal_call(backend, draw, **base) -> LegalCall:
    """A legal call whose every extent counts."""
    return appending.legal_call(backend, draw, operation="quantize_kv", cache="out", **base)


def more_tokens(call, _draw, _legal):
    """Than there are slots."""
    for name in ("latent", "rope"):
        spoil.explicit_strides(call.tensor(name))
        call.tensor(name).shape[0] = call.tensor("out").shape[0] * call.tensor("out").shape[1] + 1


def as_it_is(call, _draw, _legal):
    """The format that does not quantise, without the flag that is for those which do."""
    call.fields["flags"] &= ~c_abi.constant("UNROUNDED_SCALES")
    call.fields["kv_format"] = c_abi.constant("KV_BF16")


RULES = [
    *generated("quantize_kv", [FORM, appending.CODED]),
    *appending.rules("out"),
    Rule("room", "SHAPE", r"num_tokens\) is \d+; out has", more_tokens).on("", appending.BYTES),
    Rule("no quantising", "VALUE", "kv_format is FLASHMLA_KV_BF16", as_it_is).on("", appending.BYTES),
]
