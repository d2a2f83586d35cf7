"""The oracle against cases worked out by hand, and wrong oracles that these cases must catch.

A logit is made exactly: q holds 1 in component 512 (RoPE, not part of V) and the latent of a token its logit there;
component 0 of the latent is the value. So softmax weights are 1 : 3 where logits are 0 and ln 3.
"""

from __future__ import annotations

import inspect
import math
from types import SimpleNamespace

import numpy as np
import pytest

import oracle

LN3 = math.log(3)
NAN = math.nan
INF = math.inf

# (what it shows, s_q, heads, causal, page table, length, expected out[s][h], expected lse[h][s])
# Three pages of two tokens, two KV heads; the second token of page 1 is dead. Logits by page and token are
# [[0, ln 3], [ln 3, dead], [0, 0]] on head 0 and 0 on head 1; values [[4, 8], [1, dead], [5, 7]] and ten times that.
CASES = {
    "one token": (1, 2, False, [0, 9], 1, [[4, 40]], [[0], [0]]),
    "weights 1 : 3": (1, 2, False, [0, 9], 2, [[7, 60]], [[math.log(4)], [math.log(2)]]),
    "a part of the last page": (1, 2, False, [0, 1], 3, [[31 / 7, 130 / 3]], [[math.log(7)], [math.log(3)]]),
    "pages in another order": (1, 2, False, [1, 0], 1, [[1, 10]], [[LN3], [0]]),
    "four heads share two": (1, 4, False, [0, 9], 2, [[7, 7, 60, 60]], [[math.log(4)]] * 2 + [[math.log(2)]] * 2),
    "causal, bottom right": (2, 2, True, [0, 9], 2, [[4, 40], [7, 60]], [[0, math.log(4)], [0, math.log(2)]]),
    "not causal": (2, 2, False, [0, 9], 2, [[7, 60]] * 2, [[math.log(4)] * 2, [math.log(2)] * 2]),
    "causal before the first token": (3, 2, True, [0, 9], 1, [[0, 0], [0, 0], [4, 40]], [[INF, INF, 0]] * 2),
    "no token": (1, 2, False, [9, 9], 0, [[0, 0]], [[INF], [INF]]),
    "negative length": (1, 2, False, [9, 9], -3, [[0, 0]], [[INF], [INF]]),
    "length above the table": (1, 2, False, [0, 2], 99, [[40 / 6, 60]], [[math.log(6)], [math.log(4)]]),
    "clamped before causal": (2, 2, True, [0, 2], 99, [[33 / 5, 170 / 3], [40 / 6, 60]], None),
    "page outside takes part": (1, 2, False, [-1, 2], 3, [[5 / 3, 50 / 3]], [[math.log(3)], [math.log(3)]]),
    "page beyond takes part": (1, 2, False, [3, 2], 2, [[0, 0]], [[math.log(2)], [math.log(2)]]),
}

# A change of the oracle's text and what it stands for: each must fail at least one case above.
WRONG = {
    "page end off by one": ("min(page_size, length - start)", "min(page_size, length - start) - 1"),
    "causal bound off by one": ("length - (s_q - 1 - s)", "length - (s_q - s)"),
    "causal bound, top left": ("length - (s_q - 1 - s)", "s + 1"),
    "causal ignored": (" if causal else length", " if False else length"),
    "head map": ("slice(g * group, (g + 1) * group)", "slice(g, None, h_kv)"),
    "stale last page": ("pages[start // page_size]", "pages[max(0, start // page_size - 1)]"),
    "lse in base 2": ("np.log(total) + top", "(np.log(total) + top) / np.log(2)"),
    "lse without the maximum": ("np.log(total) + top", "np.log(total)"),
    "empty row is -inf": ("np.inf)", "-np.inf)"),
    "length not clamped from above": (", capacity)", ", 2**31)"),
    "length not clamped from below": ("max(int(cache_seqlens[i]), 0)", "abs(int(cache_seqlens[i]))"),
    "page outside is skipped": (
        "logits = scale * (queries[s, heads] @ k.T)",
        "k = k[k.any(1)]; logits = scale * (queries[s, heads] @ k.T)",
    ),
    "page -1 wraps around": ("0 <= page < num_blocks", "-num_blocks <= page < num_blocks"),
    "scale ignored": ("scale * (queries", "(queries"),
    "RoPE left out of the logits": ("(queries[s, heads] @ k.T)", "(queries[s, heads, :512] @ k[:, :512].T)"),
    "weights not normalised": ("(weights / total)", "weights"),
}


def problem(s_q, heads, table, length):
    """The tensors of one case."""
    logits = [[0, LN3], [LN3, NAN], [0, 0]]
    values = [[4, 8], [1, NAN], [5, 7]]
    kv_cache = np.zeros((3, 2, 2, 576))
    for page in range(3):
        for row in range(2):
            kv_cache[page, row, 0, [0, 512]] = values[page][row], logits[page][row]
            kv_cache[page, row, 1, 0] = 10 * values[page][row]
    q = np.zeros((1, s_q, heads, 576))
    q[..., 512] = 24  # undone by the default scale, 576^-0.5 = 1 / 24
    return q, kv_cache, np.array([table], np.int32), np.array([length], np.int32)


def check(module, case) -> None:
    s_q, heads, causal, table, length, out, lse = case
    result = module.dense_decode(*problem(s_q, heads, table, length), causal=causal)
    np.testing.assert_allclose(result[0][0, :, :, 0], out, rtol=1e-12)
    assert not result[0][..., 1:].any()
    if lse is not None:
        np.testing.assert_allclose(result[1][0], lse, rtol=1e-12, atol=1e-12)


def check_all(module) -> None:
    for case in CASES.values():
        check(module, case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_worked_case(case):
    check(oracle, case)


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_wrong_oracle_is_caught(change):
    right = inspect.getsource(oracle)
    assert right.count(change[0]) == 1
    wrong: dict = {"__name__": "wrong_oracle"}
    exec(compile(right.replace(*change), "wrong_oracle", "exec"), wrong)
    with np.errstate(all="ignore"), pytest.raises((AssertionError, IndexError, ValueError)):
        check_all(SimpleNamespace(**wrong))


def test_softmax_scale_is_taken_as_float32():
    q, kv_cache, table, lengths = problem(1, 2, [0, 9], 2)
    q[..., 512] = 1
    given = oracle.dense_decode(q, kv_cache, table, lengths, softmax_scale=0.1)
    logit = float(np.float32(0.1)) * LN3
    assert given[1][0, 0, 0] == pytest.approx(math.log(1 + math.exp(logit)), rel=1e-12)
