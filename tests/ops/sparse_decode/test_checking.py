"""The checking mode: what a call would read clamped or pass over is told; see dense_decode's tests of it."""

from __future__ import annotations

import re

import numpy as np
import pytest

import flashmla
from checking import begin_of, checking, done, told  # noqa: F401 - a fixture
from ops.sparse_decode import calls
from ops.sparse_decode.case import Cache, SparseCase
from ops.sparse_decode.data import Data, make_data

CASE = SparseCase(
    main=Cache(num_blocks=4, page_size=16, topk=5, lengths=(5, 2, 0)),
    extra=Cache(num_blocks=3, page_size=7, topk=3, lengths=(3, 3, 1)),
    batch=3,
    s_q=2,
    h_q=2,
    outside=0.0,
    route="torch",
    given=("out",),
)
WIDE = CASE.but(index_dtype="int64")
ALONE = CASE.but(lengths=None, extra=None)
# Of the six query tokens the first and the last are no request's.
VARLEN = CASE.but(cu_seqlens_q=(1, 3, 3, 5), total_q=6, lengths=(5, 5, 5))
# What is spoiled of a case, and the sentence about it, a pattern
TEXTS = {
    "lengths": (
        CASE,
        {"topk_length": {1: -3, 0: 6}},
        r"topk_length has 2 lengths out of range: topk_length\[(1\] is -3|0\] is 6); it must be in \[0, 5\]",
    ),
    "extra length": (
        CASE,
        {"extra_topk_length": {2: 4}},
        r"extra_topk_length has 1 length out of range: extra_topk_length\[2\] is 4; it must be in \[0, 3\]",
    ),
    "index": (
        CASE,
        {"indices": {(1, 1, 1): 64}},
        r"indices has 1 slot out of range: indices\[1, 1, 1\] is 64; it must be in \[0, 64\), or -1 for none",
    ),
    "indices": (
        ALONE,
        {"indices": {(2, 1, 4): -2, (0, 0, 0): 2**31 - 1, (0, 0, 1): -(2**31)}},
        r"indices has 3 slots out of range: indices\[\d, \d, \d\] is -?\d+; it must be in \[0, 64\), or -1 for none",
    ),
    "wide index": (
        WIDE,
        {"indices": {(0, 1, 3): 2**32 + 1}},
        r"indices has 1 slot out of range: indices\[0, 1, 3\] is 4294967297; it must be in \[0, 64\), or -1 for none",
    ),
    "extra index": (
        WIDE,
        {"extra_indices": {(2, 0, 0): -(2**63)}},
        rf"extra_indices has 1 slot out of range: extra_indices\[2, 0, 0\] is -{2**63}; it must be in \[0, 21\), or .*",
    ),
    "index of packed queries": (
        VARLEN,
        {"indices": {(4, 2): 99}},
        r"indices has 1 slot out of range: indices\[4, 2\] is 99; it must be in \[0, 64\), or -1 for none",
    ),
    "offset": (
        VARLEN,
        {"cu_seqlens_q": {2: 4, 3: 7}},
        r"cu_seqlens_q has 1 offset out of range: cu_seqlens_q\[3\] is 7; it must be in \[0, 6\]",
    ),
    "order": (
        VARLEN,
        {"cu_seqlens_q": {2: 2, 3: 4}},
        r"cu_seqlens_q has 1 offset out of order: cu_seqlens_q\[2\] is 2; it must be at least the one before it, 3",
    ),
    "count": (
        VARLEN,
        {"cu_seqlens_q": {0: 0}},
        r"cu_seqlens_q has 1 request of too many query tokens: request 0 has 3; max_seqlen_q is 2",
    ),
}
OF_A_PLAN = {"topk_length", "extra_topk_length", "cu_seqlens_q"}


def spoiled(case: SparseCase, changes: dict) -> Data:
    data = make_data(case)
    for name, values in changes.items():
        for where, value in values.items():
            data.tensor(name)[where] = value
    return data


def call(tensors: calls.Tensors, plan: calls.Plan | None = None) -> None:
    inputs, options = tensors.package_call()
    tensors.adapter.call(flashmla.sparse_decode, *inputs, **options, plan=plan and plan.handle)


@pytest.mark.parametrize("route", ["torch", "torch-long-way", "torch-prepared"])
@pytest.mark.parametrize("name", TEXTS)
def test_what_selects_nothing_or_is_clamped_is_told(backend, checking, name, route):  # noqa: ARG001, F811 - the mode
    """By the call that reads it: a plan's, or a decode call's, with a plan that was made of other values or without."""
    case, changes, sentence = TEXTS[name]
    case = case.but(route=route)
    wanted = begin_of(backend) + sentence
    call(calls.Tensors(case, backend))  # then the fast way is known
    bad = calls.Tensors(case, backend, spoiled(case, changes))
    assert re.fullmatch(wanted, told(backend, lambda: call(bad)))
    planned = calls.Tensors(case.but(plan="fresh"), backend, bad.data)
    of_plan = told(backend, lambda: calls.make_plan(planned))
    if OF_A_PLAN & changes.keys():
        assert re.fullmatch(wanted, of_plan)
    else:  # a plan does not read it
        assert not of_plan
    plan = calls.make_plan(calls.Tensors(case.but(plan="fresh"), backend))
    assert re.fullmatch(wanted, told(backend, lambda: call(bad, plan)))


@pytest.mark.parametrize(
    "case",
    [CASE, WIDE, ALONE, VARLEN, CASE.but(topk=0, lengths=(0, 0, 0))],
    ids=["int32", "int64", "one", "packed", "0"],
)
def test_padding_and_what_does_not_count_is_not_told(backend, checking, case):  # noqa: ARG001, F811 - the mode
    """-1 selects nothing and says so; indices behind a length, and those of no request, may be anything."""
    data = make_data(case)
    for prefix, cache in case.caches.items():
        indices = data.caches[prefix].indices
        indices[..., cache.topk // 2 : cache.topk // 2 + 1] = -1
        for i in range(case.batch):
            rows = indices if case.cu_seqlens_q is not None else indices[i]
            rows[case.query_rows(i), cache.attended(i) :] = 10**9
        if case.cu_seqlens_q is not None:
            indices[case.owners() == 0] = -(10**9)
    calls.run(case, backend, data)
    plan = calls.make_plan(calls.Tensors(case.but(plan="fresh"), backend, data))
    calls.decode(calls.Tensors(case, backend, data), plan)
    done(backend)
    flashmla.check_report()


def test_nothing_is_looked_at_without_the_mode(backend):
    for case, changes, _ in TEXTS.values():
        bad = calls.Tensors(case, backend, spoiled(case, changes))
        assert not told(backend, lambda bad=bad: call(bad))


def test_on_the_cpu_nothing_is_written(checking):  # noqa: ARG001, F811 - the mode
    q, kv_cache = np.ones((1, 1, 1, 576), np.float32), np.ones((2, 4, 1, 576), np.float32)
    out = np.full((1, 1, 1, 512), 7, np.float32)
    with pytest.raises(flashmla.InvalidArgumentError, match=r"indices\[0, 0, 1\] is 8; it must be in \[0, 8\)"):
        flashmla.sparse_decode(q, kv_cache, np.array([[[0, 8]]], np.int32), out=out)
    assert (out == 7).all()


def test_many_wrong_indices_are_counted(gpu, checking):  # noqa: ARG001, F811 - the mode
    """By all blocks and warps, of both widths, in two launches."""
    import torch

    q = torch.randn(5, 40, 16, 576, device="cuda").bfloat16()
    kv_cache = torch.randn(10, 64, 1, 576, device="cuda").bfloat16()
    for dtype in (torch.int32, torch.int64):
        indices = torch.randint(0, 640, (5, 40, 1000), device="cuda", dtype=dtype)
        wrong = torch.rand(indices.shape, device="cuda") < 0.1
        indices[wrong] = 640
        indices[:, :, ::7] = -1
        count = int((indices == 640).sum())
        flashmla.sparse_decode(q, kv_cache, indices)
        done(gpu)
        with pytest.raises(flashmla.InvalidArgumentError, match=rf"indices has {count} slots out of range") as raised:
            flashmla.check_report()
        i, s, j = (int(x) for x in re.search(r"\[(\d+), (\d+), (\d+)\] is 640;", str(raised.value)).groups())
        assert indices[i, s, j] == 640
        flashmla.check_report()


def test_replays_of_a_graph_are_looked_at(gpu, checking):  # noqa: ARG001, F811 - the mode
    import torch

    q = torch.randn(2, 2, 16, 576, device="cuda").bfloat16()
    kv_cache = torch.randn(2, 64, 1, 576, device="cuda").bfloat16()
    indices = torch.randint(0, 128, (2, 2, 100), device="cuda")
    call = flashmla.prepare(flashmla.sparse_decode, q, kv_cache, indices)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        call()
    graph.replay()
    done(gpu)
    flashmla.check_report()
    indices[1, 0, 99] = 2**40
    for _ in range(3):
        graph.replay()
    done(gpu)
    with pytest.raises(flashmla.InvalidArgumentError, match=rf"indices has 3 slots .*\[1, 0, 99\] is {2**40};"):
        flashmla.check_report()
