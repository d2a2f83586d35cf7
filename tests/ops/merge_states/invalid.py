"""Rules of merge_states that its table of tensors does not say: the number of parts, and what the library supports."""

from __future__ import annotations

import invalid_calls as spoil
from argument_rules import Form, generated
from invalid_calls import LegalCall, Rule
from ops.merge_states import calls, strategies

LISTED = Form("", {"stacked": False}, ("lse",))
STACKED = Form("stacked", {"stacked": True}, ("lse",), stacked=True)
PACKED = Form("packed queries", {"stacked": False, "batch": None}, ("lse",), varlen=True)
STACKED_PACKED = Form("stacked, packed", {"stacked": True, "batch": None}, ("lse",), varlen=True, stacked=True)


def legal_call(backend, draw, **base) -> LegalCall:
    """A legal call whose every extent counts."""
    case = draw(strategies.merges(backend, small=True, route="c", with_lse=True, **base))
    parts = calls.Parts(case, backend)
    buffers = {"out": parts.output("out"), "lse": parts.output("lse")}
    call = parts.c_call(**buffers)
    inputs = {f"{name}[{i}]": part for name in ("outs", "lses") for i, part in enumerate(getattr(parts, name))}
    return LegalCall(call, buffers | inputs)


def more_parts(count: int):
    """More parts than a backend takes, and not evenly spaced, which would make them one stacked tensor."""

    def spoil(call, _draw, _legal):
        for name in ("outs", "lses"):
            call.tensors[name] = [call.tensors[name][i % 3 // 2] for i in range(count)]
        call.fields["num_states"] = count

    return spoil


def another_d_v(call, draw, _legal):
    """No multiple of 8, in every tensor that has it."""
    places = {f"outs[{i}]": -1 for i in range(len(call.tensors["outs"]))} | {"out": -1}
    spoil.extents(places, 12, 9, 1)(call, draw, _legal)


OWN = [
    Rule("num_states", "VALUE", "num_states", spoil.field("num_states", -1, -(2**31))),
    Rule("far too many parts", "UNSUPPORTED", "num_states", more_parts(5000)),
    Rule("too many parts on CUDA", "UNSUPPORTED", "num_states", more_parts(17), only="gpu"),
    Rule("d_v", "UNSUPPORTED", "d_v", another_d_v),
]
RULES = [
    *generated("merge_states", [LISTED, STACKED, PACKED, STACKED_PACKED]),
    *(rule.on("", LISTED.base) for rule in OWN),
]
