"""The oracle against cases worked out by hand, and wrong oracles that these cases must catch.

A logit is made exactly: q holds 1 in component 512 (RoPE, not part of V) and the latent of a token its logit there;
component 0 of the latent is the value. So softmax weights are 1 : 3 where logits are 0 and ln 3.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from ops.dense_decode import oracle
from planted_faults import edited_module

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

# A row of length L and cu_seqlens_q for a batch of requests that share the table [0, 1] (tokens 4, 8, 1 on head 0), all
# causal: (what it shows, offsets, max_seqlen_q, lengths, expected out[token] on head 0; NaN: not written).
VARLEN = {
    "two requests": ([0, 1, 3], 2, [1, 2], [4, 4, 7]),
    "no query": ([0, 0, 2], 2, [2, 3], [7, 31 / 7]),
    "rows before and behind": ([1, 2, 2], 1, [2, 2], [NAN, 7, NAN]),
    "a limit on queries": ([0, 3], 2, [3], [7, 31 / 7, NAN]),
    "offsets outside": ([-5, 1, 9], 2, [1, 3], [4, 7, 31 / 7]),
    "offsets out of order": ([2, 1, 2], 1, [2, 1], [NAN, 4, NAN]),
}

# Shards of the tokens 4, 8, 1 (weights 1, 3, 3) dealt one at a time: (shard, causal, s_q, length, global length, out).
SHARDS = {
    "first of two": (oracle.Shard(0, 2, 1), False, 1, 2, 3, [7]),
    "second of two, bound before its last token": (oracle.Shard(1, 2, 1), False, 1, 2, 3, [4]),
    "causal on global lengths": (oracle.Shard(0, 2, 1), True, 2, 2, 3, [4, 7]),
    "causal, second of two": (oracle.Shard(1, 2, 1), True, 3, 2, 4, [4, 4, 7]),
    "in turns of two": (oracle.Shard(1, 2, 2), True, 3, 2, 4, [0, 4, 7]),
    "more local than global": (oracle.Shard(0, 1, 16), False, 1, 3, 2, [7]),
    "negative global length": (oracle.Shard(0, 1, 16), False, 1, 3, -2, [0]),
}

# Sinks of the two heads, whose sums are 4 and 2 and whose rows are 7 and 60.
SINKS = {
    "as large as the sums": ([math.log(4), math.log(2)], [3.5, 30]),
    "all and nothing": ([INF, -INF], [0, 60]),
    "half as large and no number": ([math.log(2), NAN], [14 / 3, NAN]),
}

# A change of the oracle's text and what it stands for: each must fail at least one case above.
WRONG = {
    "page end off by one": ("min(page_size, length - start)", "min(page_size, length - start) - 1"),
    "causal bound off by one": ("total - (s_q - 1 - s)", "total - (s_q - s)"),
    "causal bound, top left": ("total - (s_q - 1 - s)", "s + 1"),
    "causal ignored": (" if causal else total", " if False else total"),
    "head map": ("slice(g * group, (g + 1) * group)", "slice(g, None, h_kv)"),
    "stale last page": ("pages[start // page_size]", "pages[max(0, start // page_size - 1)]"),
    "lse in base 2": ("np.log(2) if lse_base2 else 1", "np.log(2)"),
    "lse without the maximum": ("np.log(sums) + top", "np.log(sums)"),
    "empty row is -inf": ("lse[empty] = empty_lse", "lse[empty] = -np.inf"),
    "length not clamped from above": (", block_table.shape[1] * kv_cache.shape[1])", ", 2**31)"),
    "length not clamped from below": ("max(int(cache_seqlens[i]), 0)", "abs(int(cache_seqlens[i]))"),
    "page outside is skipped": (
        "logits = scale * (queries[s, heads] @ k.T)",
        "k = k[k.any(1)]; logits = scale * (queries[s, heads] @ k.T)",
    ),
    "page -1 wraps around": ("0 <= page < num_blocks", "-num_blocks <= page < num_blocks"),
    "scale ignored": ("scale * (queries", "(queries"),
    "RoPE left out of the logits": ("(queries[s, heads] @ k.T)", "(queries[s, heads, :512] @ k[:, :512].T)"),
    "weights not normalised": ("(weights / sums)", "weights"),
    "offsets not clamped from below": (
        "begin = min(max(int(cu_seqlens_q[i]), 0)",
        "begin = min(abs(int(cu_seqlens_q[i]))",
    ),
    "no limit on queries": ("min(end, begin + max_seqlen_q)", "end"),
    "shards in one piece": ("turns * self.world + self.rank", "turns + self.rank"),
    "rank ignored": ("self.world + self.rank", "self.world"),
    "causal on local lengths": ("max(int(global_seqlens[i]), 0)", "length"),
    "global length not clamped": ("max(int(global_seqlens[i]), 0)", "abs(int(global_seqlens[i]))"),
    "base 2 ignored": ("np.log(2) if lse_base2 else 1", "1"),
    "sink ignored": ("if sink is not None:", "if False:"),
    "sinks of the tokens": ("np.swapaxes(np.where(empty, 0, share), -1, -2)", "np.where(empty, 0, share)[:, ::-1]"),
    "sink of empty rows": ("np.where(empty, 0, share)", "share / ~empty"),
    "sink in the lse": ("out *= np.swap", "lse -= np.log(share); out *= np.swap"),
    "empty value ignored": ("lse[empty] = empty_lse", "lse[empty] = np.inf"),
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


def check_varlen(module, case) -> None:
    offsets, most, lengths, out = case
    q, kv_cache, _, _ = problem(len(out), 2, [0, 1], 0)
    table = np.array([[0, 1]] * len(lengths))
    result = module.dense_decode(
        q[0], kv_cache, table, np.array(lengths), causal=True, cu_seqlens_q=np.array(offsets), max_seqlen_q=most
    )
    np.testing.assert_allclose(result[0][:, 0, 0], out, rtol=1e-12)
    np.testing.assert_array_equal(np.isnan(result[1][0]), np.isnan(out))


def check_shard(module, case) -> None:
    shard, causal, s_q, length, total, out = case
    arguments = problem(s_q, 2, [0, 1], length)
    result = module.dense_decode(
        *arguments, causal=causal, shard=module.Shard(*shard), global_seqlens=[total], lse_base2=True, empty_lse=-INF
    )
    np.testing.assert_allclose(result[0][0, :, 0, 0], out, rtol=1e-12)
    lse = {0: -INF, 4: 0, 7: 2}  # base 2
    np.testing.assert_allclose(result[1][0, 0], [lse[value] for value in out], atol=1e-12)


def check_sink(module, case) -> None:
    sink, out = case
    for length in (2, 0):
        arguments = problem(1, 2, [0, 9], length)
        plain = module.dense_decode(*arguments)
        found = module.dense_decode(*arguments, sink=np.array(sink, np.float32))
        np.testing.assert_allclose(found[0][0, 0, :, 0], out if length else 0, rtol=1e-6)
        np.testing.assert_array_equal(found[1], plain[1])


def check_all(module) -> None:
    for one, cases in ((check, CASES), (check_varlen, VARLEN), (check_shard, SHARDS), (check_sink, SINKS)):
        for case in cases.values():
            one(module, case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_worked_case(case):
    check(oracle, case)


@pytest.mark.parametrize("case", VARLEN.values(), ids=VARLEN)
def test_worked_case_of_variable_length(case):
    check_varlen(oracle, case)


@pytest.mark.parametrize("case", SHARDS.values(), ids=SHARDS)
def test_worked_case_of_a_shard(case):
    check_shard(oracle, case)


@pytest.mark.parametrize("case", SINKS.values(), ids=SINKS)
def test_worked_case_of_sinks(case):
    check_sink(oracle, case)


GEOMETRIES = [(576, 512), (512, 512), (320, 256), (288, 256), (160, 128), (1088, 1024)]


@pytest.mark.parametrize(("d_qk", "d_v"), GEOMETRIES)
def test_geometries(d_qk, d_v):
    """The last components: a logit and perhaps a value."""
    q = np.zeros((1, 1, 1, d_qk))
    kv_cache = np.zeros((1, 2, 1, d_qk))
    q[..., -1] = d_qk**0.5  # undone by the default scale
    kv_cache[0, :, 0, -1], kv_cache[0, :, 0, d_v // 2] = (0, LN3), (4, 8)
    out, lse = oracle.dense_decode(q, kv_cache, np.array([[0]]), np.array([2]))
    assert out.shape == (1, 1, 1, d_v)
    assert out[0, 0, 0, d_v // 2] == pytest.approx(7)
    assert lse[0, 0, 0] == pytest.approx(math.log(4))


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_wrong_oracle_is_caught(change):
    wrong = edited_module(oracle, *change)
    with np.errstate(all="ignore"), pytest.raises((AssertionError, IndexError, ValueError)):
        check_all(wrong)


def test_softmax_scale_is_taken_as_float32():
    q, kv_cache, table, lengths = problem(1, 2, [0, 9], 2)
    q[..., 512] = 1
    given = oracle.dense_decode(q, kv_cache, table, lengths, softmax_scale=0.1)
    logit = float(np.float32(0.1)) * LN3
    assert given[1][0, 0, 0] == pytest.approx(math.log(1 + math.exp(logit)), rel=1e-12)
