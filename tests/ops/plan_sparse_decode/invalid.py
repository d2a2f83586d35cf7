"""Rules of plan_sparse_decode that its table does not say: those of the calls that it is for, and its own."""

from __future__ import annotations

import c_abi
import invalid_calls as spoil
from argument_rules import Form, generated
from invalid_calls import LegalCall, Rule
from ops.dense_decode.invalid import part_rules
from ops.plan_decode.invalid import SPLITS
from ops.sparse_decode import invalid

BOTH = ("topk_length", "extra_indices", "extra_topk_length")
FIXED = Form("", invalid.FIXED.base, BOTH)
VARLEN = Form("varlen", invalid.VARLEN.base, (*BOTH, "cu_seqlens_q"), varlen=True)

PARTED = Form("two parts", invalid.PARTED.base, (*BOTH, "q_rope"), parted=True)


def legal_call(backend, draw, **base) -> LegalCall:
    legal = invalid.legal_call(backend, draw, "plan_sparse_decode", **base)
    legal.outputs = (c_abi.new_plan(),)
    return legal


OWN = [
    Rule("h_q", "UNSUPPORTED", "h_q", spoil.extents({"q": 2}, 129, 200, 2**31 - 1)),
    Rule("d_qk", "UNSUPPORTED", "d_qk", spoil.extents({"q": -1}, 64, 192, 328, 584)),
    Rule("float32", "UNSUPPORTED", "float16|float32", invalid.all_of_dtype("q"), only="gpu"),
    Rule(
        "extra_topk_length alone",
        "VALUE",
        "extra_topk_length is given",
        spoil.no_tensor("extra_indices"),
    ),
]
RULES = [
    *generated("plan_sparse_decode", [FIXED, VARLEN, PARTED]),
    *(rule.on("", FIXED.base) for rule in (*invalid.OF_STEPS, *OWN, *SPLITS)),
    *(rule.on("two parts", PARTED.base) for rule in part_rules(())),
    *(rule.on("varlen", VARLEN.base) for rule in invalid.OF_OFFSETS),
]
