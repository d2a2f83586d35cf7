"""CUDA graphs that hold a merge: a prepared one, and that of the shards of a context."""

from __future__ import annotations

import numpy as np
import pytest

import flashmla
from attention import Result
from ops.dense_decode.oracle import Shard
from ops.merge_states import calls

pytest.importorskip("torch")
from gpu.steps import STEP, Step, capture, run_alone, to_numpy

CAPTURE_FIRST = """
import torch
import flashmla

draw = torch.Generator("cuda").manual_seed(1)
states = torch.randn(3, 2, 1, 128, 512, device="cuda", generator=draw), torch.randn(3, 2, 128, 1, device="cuda")
prepared = flashmla.prepare(flashmla.merge_states, *states)
torch.cuda.synchronize()
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    results = prepared()
graph.replay()
torch.cuda.synchronize()
assert all(torch.equal(one, other) for one, other in zip(results, flashmla.merge_states(*states)))
"""


@pytest.mark.usefixtures("gpu")
def test_a_capture_of_a_prepared_merge_needs_no_call_before():
    run_alone(CAPTURE_FIRST)


def test_context_parallel_shards_are_captured_with_their_merge(gpu):
    """The lengths of all shards change between replays; each holds every second turn of 16 tokens."""
    whole = STEP.but(lengths=(300, 71), out_dtype="float32")
    shards = [Step(whole.but(shard=Shard(rank, 2, 16), global_seqlens=(300, 71), seed=rank), gpu) for rank in range(2)]

    def work():
        parts = [
            flashmla.dense_decode(*step.inputs, **step.options, **step.tensors.package_decode_options())
            for step in shards
        ]
        return parts, flashmla.merge_states([out for out, _ in parts], [lse for _, lse in parts])

    graph, (parts, (out, lse)) = capture(work)
    for seed, lengths in ((1, (160, 40)), (2, (0, 384)), (3, (1, 0))):
        for step in shards:
            step.enqueue_change(seed, lengths, global_seqlens=tuple(2 * n for n in lengths))
        graph.replay()
        for step, part in zip(shards, parts, strict=True):
            step.check(*part)
        case = calls.MergeCase("float32", batch=2, s_q=2, h_q=STEP.h_q)
        numbers = tuple(np.stack([to_numpy(part[i]) for part in parts]) for i in range(2))
        calls.check_result(case, numbers, Result(to_numpy(out), to_numpy(lse)))
