"""The oracle against sums worked out by hand, and wrong oracles that these must catch."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ops.merge_states import oracle
from planted_faults import edited_module

LN3 = math.log(3)
NAN = math.nan
INF = math.inf

# (lses of three parts with values 1, 2 and 4, merged lse, merged value)
CASES = {
    "equal weights": ([0, 0, 0], LN3, 7 / 3),
    "weights 1 : 3": ([0, LN3, INF], math.log(4), 7 / 4),
    "either infinity is empty": ([-INF, 5, INF], 5, 2),
    "all empty": ([INF, -INF, INF], INF, 0),
    "large": ([1000, 1000 + LN3, -1000], 1000 + math.log(4), 7 / 4),
}

# A change of the oracle's text and what it stands for: each must fail at least one case above.
WRONG = {
    "one infinity is a weight": ("used = ~np.isinf(lses)", "used = ~np.isposinf(lses)"),
    "merge not normalised": ("weights / np.where(some, sums, 1)", "weights"),
    "merge always natural": ("base = 2.0 if lse_base2 else np.e", "base = np.e"),
}


def check(module, case) -> None:
    lses, lse, value = case
    outs = np.full((3, 1, 1, 8), NAN)
    for part in range(3):
        if math.isfinite(lses[part]):
            outs[part] = 2.0**part
    for base, empty in ((math.e, INF), (2, -INF)):
        given = np.reshape(lses, (3, 1, 1)) / math.log(base)
        merged = module.merge_states(outs, given, lse_base2=base == 2, empty_lse=empty)
        np.testing.assert_allclose(merged[0], np.full((1, 1, 8), value), rtol=1e-12)
        np.testing.assert_allclose(merged[1], [[empty if lse == INF else lse / math.log(base)]], rtol=1e-12)


def check_all(module) -> None:
    for case in CASES.values():
        check(module, case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_worked_case(case):
    check(oracle, case)


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_wrong_oracle_is_caught(change):
    wrong = edited_module(oracle, *change)
    with np.errstate(all="ignore"), pytest.raises(AssertionError):
        check_all(wrong)
