"""CUDA graphs that hold the shards of a context and their merge."""

from __future__ import annotations

import numpy as np
import pytest

import flashmla
from attention import Result
from ops.dense_decode.oracle import Shard
from ops.merge_states import calls

pytest.importorskip("torch")
from gpu.steps import STEP, Step, capture, to_numpy


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
