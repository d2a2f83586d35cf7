"""Prepared calls: captured without a call before, on the current stream, with memory that changes."""

from __future__ import annotations

import pytest
import torch

import flashmla
from gpu.steps import STEP, Step, capture, run_alone, wait_long

NAMES = ("q", "kv_cache", "block_table", "cache_seqlens")

CAPTURE_FIRST = """
import torch
import flashmla

draw = torch.Generator("cuda").manual_seed(1)
q = torch.randn(2, 1, 128, 576, device="cuda", generator=draw).bfloat16()
kv_cache = torch.randn(64, 64, 1, 576, device="cuda", generator=draw).bfloat16()
table = torch.arange(64, dtype=torch.int32, device="cuda").view(2, 32)
lengths = torch.tensor([2000, 70], dtype=torch.int32, device="cuda")
calls = {
    "decode": flashmla.prepare(flashmla.dense_decode, q, kv_cache, table, lengths),
    "plan": flashmla.prepare(flashmla.plan_decode, q, kv_cache, table, lengths),
}
torch.cuda.synchronize()
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    results = {name: call() for name, call in calls.items()}
graph.replay()
torch.cuda.synchronize()
want = flashmla.dense_decode(q, kv_cache, table, lengths)
planned = flashmla.dense_decode(q, kv_cache, table, lengths, plan=results["plan"])
for found in (results["decode"], planned):
    assert all(torch.equal(one, other) for one, other in zip(found, want))
"""


def test_a_capture_needs_no_call_before():
    run_alone(CAPTURE_FIRST)


@pytest.mark.parametrize("planned", [False, True])
def test_it_runs_on_the_current_stream(gpu, planned):
    """Inputs arrive late on it: a call that ran elsewhere would have seen the old ones."""
    step, later = Step(STEP, gpu), Step(STEP.but(seed=3), gpu)
    plan = flashmla.plan_decode(*step.inputs, causal=True) if planned else None
    prepared = flashmla.prepare(flashmla.dense_decode, *step.inputs, causal=True, plan=plan)
    prepared()
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        wait_long()
        step.enqueue_copy(later)
        out, lse = prepared()
        assert not side.query(), "the call returned before the stream was done"
        step.check(out, lse)


def test_other_tensors_in_every_replay(gpu):
    step, later = Step(STEP, gpu), Step(STEP.but(seed=3), gpu)
    prepared = flashmla.prepare(flashmla.dense_decode, *step.inputs, causal=True)
    others = dict(zip(NAMES, later.inputs, strict=True))
    others["out"], others["lse"] = (torch.empty_like(x) for x in prepared())
    graph, results = capture(lambda: (prepared(), prepared(**others)))
    graph.replay()
    torch.cuda.synchronize()
    step.check(*results[0])
    later.check(*results[1])
