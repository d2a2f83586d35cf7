"""The checking mode: what a call would read clamped is told, on the CPU by that call, on a GPU by a later one."""

from __future__ import annotations

import re

import numpy as np
import pytest

import flashmla
from checking import begin_of, checking, done, told  # noqa: F401 - a fixture
from ops.dense_decode import calls
from ops.dense_decode.case import Case, make_data
from ops.dense_decode.oracle import Shard
from ops.dense_decode.relations import LONG

CASE = Case(h_q=2, page_size=16, num_blocks=40, max_blocks=5, lengths=(80, 33, 0, 16), route="torch", given=("out",))
VARLEN = CASE.but(cu_seqlens_q=(0, 1, 3, 3, 4), total_q=5, s_q=2)
SHARDED = CASE.but(shard=Shard(0, 2, 16), global_seqlens=(150, 60, 0, 32))
EVERY_PAGE = {(0, column): -1 - column for column in range(5)}
# What is spoiled of a case, and the sentence about it, a pattern
TEXTS = {
    "lengths": (
        CASE,
        {"cache_seqlens": {1: -3, 0: 81}},
        r"cache_seqlens has 2 lengths out of range: cache_seqlens\[(1\] is -3|0\] is 81); it must be in \[0, 80\]",
    ),
    "page": (
        CASE,
        {"block_table": {(1, 2): 40}},
        r"block_table has 1 page number out of range: block_table\[1, 2\] is 40; it must be in \[0, 40\)",
    ),
    "pages": (
        CASE,
        {"block_table": EVERY_PAGE},
        r"block_table has 5 page numbers out of range: block_table\[0, \d\] is -\d; it must be in \[0, 40\)",
    ),
    "offset": (
        VARLEN,
        {"cu_seqlens_q": {4: 6}},
        r"cu_seqlens_q has 1 offset out of range: cu_seqlens_q\[4\] is 6; it must be in \[0, 5\]",
    ),
    "first offset": (
        VARLEN,
        {"cu_seqlens_q": {0: -1}},
        r"cu_seqlens_q has 1 offset out of range: cu_seqlens_q\[0\] is -1; it must be in \[0, 5\]",
    ),
    "order": (
        VARLEN,
        {"cu_seqlens_q": {2: 0, 3: 2}},
        r"cu_seqlens_q has 1 offset out of order: cu_seqlens_q\[2\] is 0; it must be at least the one before it, 1",
    ),
    "count": (
        VARLEN,
        {"cu_seqlens_q": {1: 0}},
        r"cu_seqlens_q has 1 request of too many query tokens: request 1 has 3; max_seqlen_q is 2",
    ),
    "global": (
        SHARDED,
        {"global_seqlens": {2: -7}},
        r"global_seqlens has 1 length out of range: global_seqlens\[2\] is -7; it must be >= 0",
    ),
}


def spoiled(case: Case, changes: dict):
    data = make_data(case)
    for name, values in changes.items():
        tensor = getattr(data, name)
        for where, value in values.items():
            tensor[where] = value
    return data


@pytest.mark.parametrize("route", ["torch", "torch-long-way"])
@pytest.mark.parametrize("name", TEXTS)
def test_what_would_be_clamped_is_told(backend, checking, name, route):  # noqa: ARG001, F811 - the mode
    """By the call that reads it: a plan's, or a decode call's, with a plan that was made of other values or without."""
    case, changes, sentence = TEXTS[name]
    case = case.but(route=route)
    where = begin_of(backend)
    calls.run(case, backend)  # then the fast way is known
    bad = calls.Tensors(case, backend, spoiled(case, changes))
    assert re.fullmatch(where + sentence, told(backend, lambda: calls.decode(bad)))
    of_plan = told(backend, lambda: calls.make_plan(bad))
    if {"cache_seqlens", "cu_seqlens_q"} & changes.keys():
        assert re.fullmatch(where + sentence, of_plan)
    else:  # a plan does not read it
        assert not of_plan
    plan = calls.make_plan(calls.Tensors(case, backend))
    assert re.fullmatch(where + sentence, told(backend, lambda: calls.decode(bad, plan)))


def test_every_call_counts_once(gpu, checking):  # noqa: ARG001, F811 - the mode
    """Of two streams at once, told by calls in between or by the report at the end."""
    import torch

    case, changes, _ = TEXTS["lengths"]
    bad = calls.Tensors(case, gpu, spoiled(case, changes))
    values = [bad.guarded[name].tensor for name in case.inputs]
    streams = [torch.cuda.Stream() for _ in range(2)]
    torch.cuda.synchronize()

    def count(call) -> int:
        """Of the values that it tells of; 0 where it succeeds."""
        try:
            call()
        except flashmla.InvalidArgumentError as error:
            return int(re.search(r"cache_seqlens has (\d+) lengths out of range", str(error))[1])
        return 0

    found = ran = 0
    for i in range(100):
        with torch.cuda.stream(streams[i % 2]):
            new = count(lambda: flashmla.dense_decode(*values))
        found, ran = found + new, ran + (new == 0)  # who tells does not run
    done(gpu)
    found += count(flashmla.check_report)
    flashmla.check_report()
    assert found == len(changes["cache_seqlens"]) * ran


@pytest.mark.parametrize(
    "case",
    [CASE, VARLEN, SHARDED, CASE.but(page_size=19), LONG],
    ids=["fixed", "varlen", "shard", "odd pages", "window"],
)
def test_values_in_their_range_are_not_told(backend, checking, case):  # noqa: ARG001, F811 - the mode
    """Dead table entries are anything, also those of requests without query tokens."""
    data = make_data(case)
    calls.check_result(case, data, calls.run(case, backend, data))
    if case is VARLEN:
        data.block_table[2, :], data.cache_seqlens[2] = -1, 80
        calls.run(case, backend, data)
    done(backend)
    flashmla.check_report()


def test_nothing_is_looked_at_without_the_mode(backend):
    for case, changes, _ in TEXTS.values():
        calls.run(case, backend, spoiled(case, changes))
    done(backend)
    flashmla.check_report()


def test_on_the_cpu_nothing_is_written(checking):  # noqa: ARG001, F811 - the mode
    q, kv_cache = np.ones((1, 1, 1, 576), np.float32), np.ones((2, 4, 1, 576), np.float32)
    out = np.full((1, 1, 1, 512), 7, np.float32)
    with pytest.raises(flashmla.InvalidArgumentError, match=r"block_table\[0, 1\] is 2; it must be in \[0, 2\)"):
        flashmla.dense_decode(q, kv_cache, np.array([[0, 2]], np.int32), np.array([5], np.int32), out=out)
    assert (out == 7).all()


def test_the_next_call_tells_what_an_earlier_one_read(gpu, checking):  # noqa: ARG001, F811 - the mode
    case, changes, sentence = TEXTS["page"]
    calls.run(case, gpu, spoiled(case, changes))
    done(gpu)
    with pytest.raises(flashmla.InvalidArgumentError, match=sentence):
        calls.run(CASE, gpu)
    calls.check(CASE, gpu)
    done(gpu)
    flashmla.check_report()


def test_replays_of_a_graph_are_looked_at(gpu, checking):  # noqa: ARG001, F811 - the mode
    import torch

    tensors = calls.Tensors(CASE, gpu)
    arguments = [torch.from_dlpack(tensors.guarded[name].tensor) for name in CASE.inputs]
    prepared = flashmla.prepare(flashmla.dense_decode, *arguments)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        prepared()
    for _ in range(2):
        graph.replay()
    done(gpu)
    flashmla.check_report()
    arguments[2][0, 3] = 99
    for _ in range(3):
        graph.replay()
    done(gpu)
    with pytest.raises(flashmla.InvalidArgumentError, match=r"block_table has 3 page numbers .*\[0, 3\] is 99;"):
        flashmla.check_report()
