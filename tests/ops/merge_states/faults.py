"""Faults of merge_states on the CPU, each of which the suite must find."""

from __future__ import annotations

from buffers import Layout
from ops.merge_states.calls import MergeCase
from planted_faults import Edit, Fault

__all__ = ["FAULTS", "Layout", "MergeCase"]  # what a drawn case is written with

ANY_PARTS = "tests/ops/merge_states/test_legal_calls.py::test_any_parts_give_what_the_oracle_says[cpu]"
FOLDER = "libflashmla/src/ops/merge_states/"


def fault(name: str, file: str, before: str, after: str, heal, message: str = "lse|out") -> Fault:
    return Fault(name, (Edit(file, before, after),), heal, ANY_PARTS, message, "ops.merge_states.calls.check")


FAULTS = [
    fault(
        "a state's +inf",  # takes part
        FOLDER + "cpu.c",
        "{ return isinf(lse); }",
        "{ return lse == -INFINITY; }",
        lambda case: case.but(empty=0.0, all_empty=0.0),
    ),
    fault(
        "base of the states",
        FOLDER + "op.c",
        "merge->lse_base2 = (params->flags & FLASHMLA_LSE_BASE2) != 0;",
        "merge->lse_base2 = false;",
        lambda case: case.but(lse_base2=False),
    ),
    fault(
        "lse of an empty state",
        "libflashmla/src/attention/mask.c",
        "(flags & FLASHMLA_EMPTY_LSE_MINUS) != 0",
        "flags == UINT32_MAX",
        lambda case: case.but(empty_lse_minus=False),
        r"lse: .inf position",
    ),
]
