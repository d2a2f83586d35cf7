"""CUDA graphs: a captured step is replayed with other lengths, pages and queries in the same tensors."""

from __future__ import annotations

import pytest
import torch

import flashmla
from gpu.steps import STEP, Step, capture, run_alone

REPLAYS = [(11, (5, 384)), (12, (384, 384)), (13, (0, 1)), (14, (-7, 2**31 - 1)), (15, (64, 65))]
STEPS = {
    "one tile a request": STEP.but(h_q=16, h_kv=1, s_q=1),
    "two KV heads": STEP,
    "float16": STEP.but(dtype="float16", h_q=128, h_kv=1),
}


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


# Other lengths of cache and queries; padding requests have length 0, no query token, or neither. Two tokens stay free.
VARLEN = STEP.but(
    s_q=3, num_blocks=24, lengths=(300, 71, 129, 5), cu_seqlens_q=(0, 3, 4, 4, 6), total_q=8, given=("out", "lse")
)
VARLEN_REPLAYS = [
    (21, (384, 1, 0, 64), (0, 1, 2, 3, 6)),
    (22, (100, 200, 0, 0), (0, 3, 6, 6, 6)),
    (23, (0, 0, 0, 0), (0, 0, 0, 0, 0)),
    (24, (384, 384, 384, 384), (0, 3, 6, 7, 8)),
    (25, (-7, 2**31 - 1, 65, 2), (-3, 1, 2, 2, 5)),
    (26, (5, 384, 63, 0), (2, 3, 3, 3, 2**31 - 1)),
]
VARLEN_STEPS = {
    "two KV heads": VARLEN,
    "one row block a request": VARLEN.but(h_q=16, h_kv=1),
    "small pages": VARLEN.but(page_size=16, max_blocks=24, num_blocks=96),
    "no RoPE": VARLEN.but(d_qk=512, dtype="float16"),
}


@pytest.mark.parametrize("batch_invariant", [False, True])
@pytest.mark.parametrize("planned", [False, True])
@pytest.mark.parametrize("case", VARLEN_STEPS.values(), ids=VARLEN_STEPS)
def test_variable_length_queries(gpu, case, planned, batch_invariant):
    """The plan, too, is made in the graph: it follows offsets and lengths of its replay."""
    step = Step(case.but(batch_invariant=batch_invariant), gpu)

    def layers():
        plan = flashmla.plan_decode(*step.inputs, **step.options) if planned else None
        return [flashmla.dense_decode(*step.inputs, **step.options, plan=plan) for _ in range(2)]

    graph, results = capture(layers)
    for seed, lengths, offsets in VARLEN_REPLAYS:
        step.enqueue_change(seed, lengths, cu_seqlens_q=offsets)
        graph.replay()
        for out, lse in results:
            step.check(out, lse)


@pytest.mark.parametrize("num_splits", [0, 4])
def test_an_old_plan_of_variable_length_queries(gpu, num_splits):
    step = Step(VARLEN, gpu)
    plan = flashmla.plan_decode(*step.inputs, **step.options, num_splits=num_splits)
    graph, (out, lse) = capture(lambda: flashmla.dense_decode(*step.inputs, **step.options, plan=plan))
    for seed, lengths, offsets in VARLEN_REPLAYS:
        step.enqueue_change(seed, lengths, cu_seqlens_q=offsets)
        graph.replay()
        step.check(out, lse)


def test_a_batch_invariant_request_keeps_its_bits_while_the_others_change(gpu):
    case = STEP.but(s_q=1, lengths=(3000, 71, 129, 5), max_blocks=50, num_blocks=120, batch_invariant=True)
    step = Step(case, gpu)
    graph, (out, lse) = capture(lambda: flashmla.dense_decode(*step.inputs, **step.options))
    graph.replay()
    step.check(out, lse)
    first, first_lse = out[0].clone(), lse[0].clone()
    for others in ((3000, 3000, 3000), (0, 0, 0), (1, 2000, 64)):
        step.tensors.guarded["cache_seqlens"].tensor[1:] = torch.tensor(others, dtype=torch.int32)
        graph.replay()
        assert torch.equal(out[0], first)
        assert torch.equal(lse[0], first_lse)


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
    run_alone(FIRST_CALL)
