"""CUDA graphs: a captured step is replayed with other lengths, pages and queries in the same tensors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import flashmla
from gpu.steps import STEP, Step

REPLAYS = [(11, (5, 384)), (12, (384, 384)), (13, (0, 1)), (14, (-7, 2**31 - 1)), (15, (64, 65))]
STEPS = {
    "one tile a request": STEP.but(h_q=16, h_kv=1, s_q=1),
    "two KV heads": STEP,
    "float16": STEP.but(dtype="float16", h_q=128, h_kv=1),
}


def capture(work):
    """The graph of `work` and what it returned. Kernels are loaded before, as every framework's warm-up does."""
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph, result


def check_replays(step, graph, results) -> None:
    for seed, lengths in REPLAYS:
        step.enqueue_change(seed, lengths)
        graph.replay()
        for out, lse in results:
            step.check(out, lse)


@pytest.mark.parametrize("case", STEPS.values(), ids=STEPS)
def test_a_call_with_its_own_schedule(gpu, case):
    step = Step(case, gpu)
    graph, result = capture(lambda: flashmla.dense_decode(*step.inputs, causal=True))
    check_replays(step, graph, [result])


@pytest.mark.parametrize("num_splits", [0, 1, 7])
@pytest.mark.parametrize("case", STEPS.values(), ids=STEPS)
def test_a_captured_plan_serves_two_layers(gpu, case, num_splits):
    step = Step(case, gpu)

    def layers():
        plan = flashmla.plan_decode(*step.inputs, causal=True, num_splits=num_splits)
        return [flashmla.dense_decode(*step.inputs, causal=True, plan=plan) for _ in range(2)]

    graph, results = capture(layers)
    check_replays(step, graph, results)


@pytest.mark.parametrize("num_splits", [0, 3])
def test_a_plan_from_outside_the_graph_may_grow_old(gpu, num_splits):
    step = Step(STEP, gpu)
    plan = flashmla.plan_decode(*step.inputs, causal=True, num_splits=num_splits)
    graph, result = capture(lambda: flashmla.dense_decode(*step.inputs, causal=True, plan=plan))
    check_replays(step, graph, [result])


def test_a_plan_outside_the_graph_may_be_made_anew(gpu):
    """In the same buffer: the graph then follows the new schedule."""
    step = Step(STEP, gpu)
    size = flashmla.plan_decode_size(*step.inputs, causal=True)
    buffer = torch.empty(size, dtype=torch.uint8, device="cuda")
    plan = flashmla.plan_decode(*step.inputs, causal=True, buffer=buffer)
    graph, (out, lse) = capture(lambda: flashmla.dense_decode(*step.inputs, causal=True, plan=plan))
    for seed, lengths in REPLAYS:
        step.enqueue_change(seed, lengths)
        flashmla.plan_decode(*step.inputs, causal=True, buffer=buffer)
        graph.replay()
        step.check(out, lse)


FIRST_CALL = """
import torch, backends, flashmla
from gpu.steps import STEP, Step
step = Step(STEP, backends.Backend("gpu", (2, 0), ("bfloat16",), (64,), {"torch": backends.TorchAdapter("cuda")}))
torch.cuda.synchronize()
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph, capture_error_mode="relaxed"):
    out, lse = flashmla.dense_decode(*step.inputs, causal=True)
graph.replay()
step.check(out, lse)
"""


def test_the_first_call_of_a_process_may_be_a_captured_one():
    """Kernels are loaded then; CUDA allows that in the relaxed capture mode."""
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = os.environ | {"PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", FIRST_CALL], env=environment, check=True, timeout=90)
