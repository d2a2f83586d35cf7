"""Batch-invariant bits on the GPU: in any batch, chunk and cut of the work, by graphs and plans that are replayed."""

from __future__ import annotations

import pytest
import torch

import flashmla
from gpu import invariance
from gpu.steps import capture

CALLS = [(check, kind) for kind in invariance.SPLIT for check in invariance.OF_SPLIT]
CALLS += [(check, kind) for kind in (*invariance.SMALL, *invariance.WHOLE) for check in invariance.OF_WHOLE]


def named(value: object) -> str:
    if not isinstance(value, invariance.Kind):
        return value.__name__
    dtype = value.out_dtype or str(value.dtype)[6:]
    return f"{value.h_q}-{value.d_qk}-{value.page}-{dtype}-{value.kv_format}-{value.window}"


@pytest.mark.parametrize(("check", "kind"), CALLS, ids=named)
def test_bits_are_the_same(check, kind):
    check(kind)


@pytest.mark.parametrize("kind", invariance.SPLIT[:2], ids=named)
def test_bits_of_a_replayed_graph(kind):
    requests = invariance.Requests(kind, (30_000, 49_153, 16_385, 7), 60_000, seed=4)
    arguments = (requests.q, requests.cache, requests.table, requests.lengths)
    graph, found = capture(lambda: flashmla.dense_decode(*arguments, causal=True, batch_invariant=True))
    for lengths in ((30_000, 49_153, 16_385, 7), (2048, 60_000, 0, 33_000), (60_000, 60_000, 60_000, 60_000)):
        requests.lengths.copy_(torch.tensor(lengths, dtype=torch.int32, device="cuda"))
        graph.replay()
        invariance.same(found, requests.decode(), lengths)
