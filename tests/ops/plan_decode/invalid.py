"""The rules of plan_decode, which are written beside those of the calls that it is for."""

from __future__ import annotations

import c_abi
from invalid_calls import LegalCall
from ops.dense_decode import invalid

RULES = [rule for rule in invalid.ALL if rule.operation == "plan_decode"]


def legal_call(backend, draw, **base) -> LegalCall:
    legal = invalid.legal_call(backend, draw, "plan_decode", **base)
    legal.outputs = (c_abi.new_plan(),)
    return legal
