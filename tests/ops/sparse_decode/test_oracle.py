"""The oracle against cases worked out by hand, and wrong oracles that these cases must catch.

A logit is made exactly: q holds 1 in component 512 (RoPE, not part of V) and the latent of a token its logit there;
component 0 of the latent is the value. Tokens 0 to 3 have the logits 0, ln 3, 0, NaN and the values 4, 8, 1, NaN; the
two tokens of the other cache ln 3 and 0, 20 and 9.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from ops.sparse_decode import oracle
from planted_faults import edited_module

LN3 = math.log(3)
INF, NAN = math.inf, math.nan

# (what it shows, indices, how many count, those of the other cache, how many, sink, expected out, expected lse)
CASES = {
    "one token": ([0], 1, [], 0, None, 4, 0),
    "weights 1 : 3": ([0, 1], 2, [], 0, None, 7, math.log(4)),
    "in any order": ([1, 2], 2, [], 0, None, 25 / 4, math.log(4)),
    "a token twice": ([1, 0, 1], 3, [], 0, None, 52 / 7, math.log(7)),
    "-1 selects nothing": ([-1, 0, -1], 3, [], 0, None, 4, 0),
    "outside selects nothing": ([4, -(2**63), 2**63 - 1, 2**32, 1], 5, [], 0, None, 8, LN3),
    "the first ones count": ([0, 1, 3], 2, [], 0, None, 7, math.log(4)),
    "more than there are": ([0, 1], 9, [], 0, None, 7, math.log(4)),
    "none": ([], 0, [], 0, None, 0, INF),
    "a negative length": ([0, 1], -1, [], 0, None, 0, INF),
    "all invalid": ([-1, 4], 2, [-1, 2], 2, None, 0, INF),
    "two caches": ([0, 1], 2, [0, 1], 2, None, (4 + 24 + 60 + 9) / 8, math.log(8)),
    "the other cache alone": ([0, 1], 0, [1, 0], 1, None, 9, 0),
    "slots of the other cache": ([0], 1, [2, 3], 2, None, 4, 0),
    "a sink as large as the sum": ([0, 1], 2, [], 0, math.log(4), 3.5, math.log(4)),
    "a sink of a token's logit": ([0], 1, [], 0, LN3, 1, 0),
    "a sink that is everything": ([0, 1], 2, [], 0, INF, 0, math.log(4)),
    "a sink that is nothing": ([0, 1], 2, [], 0, -INF, 7, math.log(4)),
    "a sink that is no number": ([0, 1], 2, [], 0, NAN, NAN, math.log(4)),
    "a sink alone": ([], 0, [-1], 1, 5.0, 0, INF),
    "nothing and no number": ([-1], 1, [], 0, NAN, 0, INF),
}

# A change of the oracle's text and what it stands for: each must fail at least one case above.
WRONG = {
    "slot -1 wraps around": ("if 0 <= slot <", "if -len(self.rows) <= slot <"),
    "slots from 1": ("if 0 <= slot <", "if 0 < slot <"),
    "one slot more": ("slot < len(self.rows)]]", "slot <= len(self.rows) - 1 or slot == 4]]"),
    "slots in 32 bits": ("int(slot) for slot", "int(slot) % 2**32 for slot"),
    "duplicates once": ("[slot for slot in chosen", "[slot for slot in dict.fromkeys(chosen)"),
    "length not clamped from below": ("max(int(self.lengths[token]), 0)", "int(self.lengths[token])"),
    "length ignored": ("[token, :count]", "[token]"),
    "one cache": ("for selection in selections]", "for selection in selections[:1]]"),
    "sink ignored": ("if sink is not None:", "if False:"),
    "sink of the wrong sign": ("np.float64) - natural", "np.float64) + natural"),
    "sink in the lse": (
        "lse[token] = natural /",
        "natural = natural if sink is None else np.logaddexp(natural, sink)\n        lse[token] = natural /",
    ),
    "sink of empty rows": ("continue", "out[token] = 0 if sink is None else np.nan * sink[:, None]; continue"),
    "empty row is -inf": ("float(empty_lse)", "-np.inf"),
    "lse in base 2": ("np.log(2) if lse_base2 else 1", "np.log(2)"),
    "base 2 ignored": ("np.log(2) if lse_base2 else 1", "1"),
    "lse without the maximum": ("np.log(sums) + top", "np.log(sums)"),
    "scale ignored": ("scale * (queries", "(queries"),
    "RoPE left out of the logits": ("(queries @ keys.T)", "(queries[:, :512] @ keys[:, :512].T)"),
    "weights not normalised": ("(weights / sums[:, None])", "weights"),
}


def problem(indices, count, extra, extra_count, heads=2):
    """The tensors of one case; the second query token selects token 0 alone."""
    first = np.zeros((4, 576))
    first[:, 0], first[:, 512] = (4, 8, 1, NAN), (0, LN3, 0, NAN)
    second = np.zeros((2, 576))
    second[:, 0], second[:, 512] = (20, 9), (LN3, 0)
    q = np.zeros((2, heads, 576))
    q[..., 512] = 24  # undone by the default scale, 576^-0.5 = 1 / 24
    other = [0] * len(indices)
    return q, [
        oracle.Selection(first, np.array([indices, other], np.int64), np.array([count, 1])),
        oracle.Selection(second, np.array([extra, [-1] * len(extra)], np.int64), np.array([extra_count, 1])),
    ]


def check(module, case) -> None:
    *selected, sink, out, lse = case
    q, selections = problem(*selected)
    sinks = None if sink is None else np.array([sink, -INF], np.float32)
    found = module.sparse_decode(q, [module.Selection(*one) for one in selections], sink=sinks)
    np.testing.assert_allclose(found[0][0, 0, 0], out, rtol=1e-6)
    np.testing.assert_allclose(found[1][0], lse, rtol=1e-12, atol=1e-12)
    some = len(selected[0]) > 0
    np.testing.assert_allclose(found[0][1, 1, 0], 4 * some, rtol=1e-12)
    np.testing.assert_allclose(found[1][1], 0 if some else INF, atol=1e-12)
    assert not np.nan_to_num(found[0][..., 1:]).any()
    base2 = module.sparse_decode(q, selections, sink=sinks, lse_base2=True, empty_lse=-INF)
    np.testing.assert_allclose(base2[1][0], -INF if lse == INF else lse / math.log(2), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(base2[0], found[0])


def check_all(module) -> None:
    for case in CASES.values():
        check(module, case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_worked_case(case):
    check(oracle, case)


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_wrong_oracle_is_caught(change):
    wrong = edited_module(oracle, *change)
    with np.errstate(all="ignore"), pytest.raises((AssertionError, IndexError, ValueError)):
        check_all(wrong)


GEOMETRIES = [(576, 512), (512, 512), (320, 256), (288, 256), (160, 128), (1088, 1024)]


@pytest.mark.parametrize(("d_qk", "d_v"), GEOMETRIES)
def test_geometries(d_qk, d_v):
    """The last components: a logit and perhaps a value."""
    q, rows = np.zeros((1, 1, d_qk)), np.zeros((2, d_qk))
    q[..., -1] = d_qk**0.5  # undone by the default scale
    rows[:, -1], rows[:, d_v // 2] = (0, LN3), (4, 8)
    out, lse = oracle.sparse_decode(q, [oracle.Selection(rows, np.array([[0, 1]]), np.array([2]))], d_v=d_v)
    assert out.shape == (1, 1, d_v)
    assert out[0, 0, d_v // 2] == pytest.approx(7)
    assert lse[0, 0] == pytest.approx(math.log(4))


def test_softmax_scale_is_taken_as_float32():
    q, selections = problem([0, 1], 2, [], 0)
    q[..., 512] = 1
    _, lse = oracle.sparse_decode(q, selections, softmax_scale=0.1)
    assert lse[0, 0] == pytest.approx(math.log(1 + math.exp(float(np.float32(0.1)) * LN3)), rel=1e-12)
