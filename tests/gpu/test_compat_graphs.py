"""FlashMLA's interface in captured graphs, with both metadata styles: replays see other lengths in the same tensors."""

from __future__ import annotations

import pytest
import torch

import compat_sparse
from flashmla.compat import flash_mla
from gpu.steps import STEP, Step, capture

REPLAYS = [(11, (5, 384)), (12, (384, 384)), (13, (0, 1)), (14, (-7, 2**31 - 1))]
D_V = 512


def decode(step, *metadata):
    return flash_mla.flash_mla_with_kvcache(*step.inputs, D_V, *metadata, causal=True)


def test_a_new_handle_in_every_replay(gpu):
    step = Step(STEP, gpu)

    def layers():
        metadata = flash_mla.get_mla_metadata()
        return [decode(step, *metadata) for _ in range(2)]

    graph, results = capture(layers)
    for seed, lengths in REPLAYS:
        step.enqueue_change(seed, lengths)
        graph.replay()
        for out, lse in results:
            step.check(out, lse)


def test_a_handle_from_outside_the_graph(gpu):
    step = Step(STEP, gpu)
    metadata = flash_mla.get_mla_metadata()
    graph, (out, lse) = capture(lambda: decode(step, *metadata))
    for seed, lengths in REPLAYS:
        step.enqueue_change(seed, lengths)
        graph.replay()
        step.check(out, lse)


@pytest.mark.parametrize("rows", [None, 132], ids=["as given", "a row a multiprocessor"])
def test_static_buffers_that_are_copied_into_before_a_replay(gpu, rows):
    """As servers use the older style: buffers for the largest batch, of which a batch uses a part."""
    step = Step(STEP, gpu)
    heads = step.case.s_q * step.case.h_q // step.case.h_kv
    static, splits = flash_mla.get_mla_metadata(torch.ones(64, dtype=torch.int32, device="cuda"), heads, 1)
    if rows is not None:
        static = torch.zeros(rows, 8, dtype=torch.int32, device="cuda")
    used = splits[: len(step.inputs[3]) + 1]
    graph, (out, lse) = capture(lambda: decode(step, static, used))
    for seed, lengths in REPLAYS:
        step.enqueue_change(seed, lengths)
        metadata, num_splits = flash_mla.get_mla_metadata(step.inputs[3], heads, step.case.h_kv)
        static[: len(metadata)].copy_(metadata)
        used.copy_(num_splits)
        graph.replay()
        step.check(out, lse)


@pytest.mark.parametrize("kv_format", ["v32", "model1"])
def test_sparse_calls_with_a_handle(kv_format):
    """Two layers, and replays that select other tokens, and other numbers of them."""
    on_host = compat_sparse.inputs(kv_format, topk=700, extra=True, lengths=True, sink=True)
    given = {name: tensor.cuda() for name, tensor in on_host.items()}

    def layers():
        meta, _ = flash_mla.get_mla_metadata()
        return [compat_sparse.decode(given, meta) for _ in range(2)]

    graph, results = capture(layers)
    for lengths, extra_lengths in (((700, 0), (0, 0)), ((3, 650), (9, 1)), ((-5, 2**31 - 1), (-(2**31), 99))):
        on_host["indices"] = torch.randint_like(on_host["indices"], -1, 5 * 54)
        on_host["topk_length"] = torch.tensor(lengths, dtype=torch.int32)
        on_host["extra_topk_length"] = torch.tensor(extra_lengths, dtype=torch.int32)
        for name, tensor in on_host.items():
            given[name].copy_(tensor)
        graph.replay()
        out, lse = compat_sparse.ours(on_host, kv_format)
        for found in results:
            torch.testing.assert_close(found[0].cpu(), out, rtol=0.016, atol=1e-2)
            torch.testing.assert_close(found[1].cpu(), lse, rtol=1e-4, atol=1e-4)


def test_batch_invariant_sparse_calls():
    given = {name: tensor.cuda() for name, tensor in compat_sparse.inputs("v32").items()}
    meta, _ = flash_mla.get_mla_metadata()
    found = compat_sparse.decode(given, meta, enable_batch_invariant=True)
    wanted = compat_sparse.ours(given, "v32", batch_invariant=True)
    assert all(map(torch.equal, found, wanted))
