"""Rules of plan_decode that its table of tensors does not say: those of the calls that it is for, and its own."""

from __future__ import annotations

import c_abi
import invalid_calls as spoil
from argument_rules import generated
from invalid_calls import LegalCall, Rule, one_of
from ops.dense_decode import invalid
from ops.dense_decode.invalid import FIXED, PACKED, PARTED, PARTED_VARLEN, VARLEN


def legal_call(backend, draw, **base) -> LegalCall:
    legal = invalid.legal_call(backend, draw, "plan_decode", **base)
    legal.outputs = (c_abi.new_plan(),)
    return legal


def invariant_splits(call, draw, _legal):
    call.fields["flags"] |= c_abi.constant("BATCH_INVARIANT")
    call.fields["num_splits"] = one_of(draw, (1, 7, 1024))


SPLITS = [  # of any plan
    Rule("num_splits", "VALUE", "num_splits", spoil.field("num_splits", -1, 1025, 2**31 - 1, -(2**31))),
]
OWN = [
    Rule("splits and invariance", "VALUE", "num_splits", invariant_splits),
    Rule("reserved", "VALUE", "reserved", spoil.field("reserved", 1, 2**32 - 1)),
    Rule("reserved2", "VALUE", "reserved2", spoil.field("reserved2", 1, 2**32 - 1)),
]
RULES = [
    *generated("plan_decode", [FIXED, VARLEN, PACKED, PARTED, PARTED_VARLEN]),
    *invalid.step_rules(),
    *invalid.format_rules(),
    *SPLITS,
    *OWN,
]
