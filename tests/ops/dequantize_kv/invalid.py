"""Rules of dequantize_kv: those of gather_kv, and that every row has a slot."""

from __future__ import annotations

import invalid_calls as spoil
from argument_rules import generated
from invalid_calls import LegalCall, Rule
from ops.gather_kv import calls, strategies
from ops.gather_kv import invalid as gathering


def legal_call(backend, draw, **base) -> LegalCall:
    """A legal call whose every extent counts."""
    case = draw(strategies.reads(backend, small=True, route="c", **base))
    pages = calls.Pages(case, backend)
    out = pages.output(case.num_blocks * case.page_size)
    return LegalCall(pages.c_call("dequantize_kv", out), {"out": out} | pages.inputs)


FORMS = [gathering.COPIED, gathering.QUANTIZED, gathering.CODED]
ROOM = Rule("room", "SHAPE", r"out\.shape\[0\] \(num_tokens\) is", spoil.extent("out", 0, lambda n: n + 1))
RULES = [*generated("dequantize_kv", FORMS), *gathering.rules(), ROOM]
