"""sparse_decode on a GPU: CUDA graphs, streams, and values that lie on the device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import flashmla
from attention import Result
from ops.sparse_decode import calls
from ops.sparse_decode.case import Cache, SparseCase
from ops.sparse_decode.data import make_data
from ops.sparse_decode.relations import EXTRA, MIXED, STEP, TWOFOLD

torch = pytest.importorskip("torch")

from gpu.steps import capture, run_alone, to_numpy, wait_long  # noqa: E402 - they need PyTorch

BYTES = {"kv_format": "v32", "route": "torch"}
STEPS = {
    "bf16": STEP.but(route="torch"),
    "v32": STEP.but(**BYTES),
    "v32 of pairs": STEP.but(**BYTES, h_q=128, paired=True),
    "two caches": TWOFOLD.but(route="torch", index_dtype="int64"),
    "packed": MIXED.but(route="torch"),
    "two formats": TWOFOLD.but(**BYTES, extra=EXTRA.but(kv_format="bf16"), h_q=128, paired=True),
    "two formats packed": MIXED.but(route="torch", extra=MIXED.extra.but(kv_format="v32")),
}


class Step:
    """The tensors of a case on the current device, whose contents can be changed in place."""

    def __init__(self, case: SparseCase, backend):
        self.case, self.backend, self.data = case, backend, make_data(case)
        self.tensors = calls.Tensors(case, backend, self.data)
        self.arguments, self.options = self.tensors.package_call()

    def forced(self):
        return calls.forced(self.case, self.backend)

    def decode(self, plan=None):
        with self.forced():
            return flashmla.sparse_decode(*self.arguments, **self.options, plan=plan)

    def prepare(self, plan=None):
        with self.forced():
            return flashmla.prepare(flashmla.sparse_decode, *self.arguments, **self.options, plan=plan)

    def plan(self, **options):
        arguments, given = self.tensors.package_plan_call()
        with self.forced():
            return flashmla.plan_sparse_decode(*arguments, **given | options)

    def enqueue_change(self, **facts) -> None:
        """The numbers of another case of the same shapes, copied on the current stream."""
        self.enqueue_copy(Step(self.case.but(**facts), self.backend))

    def enqueue_copy(self, other: Step) -> None:
        for name, mine in self.tensors.guarded.items():
            mine.tensor.copy_(other.tensors.guarded[name].tensor, non_blocking=True)
        self.case, self.data = other.case, other.data

    def check(self, out, lse) -> None:
        """The result is the oracle's; waits for the current stream."""
        found = calls.without_free_rows(self.case, Result(to_numpy(out), to_numpy(lse)))
        calls.check_result(self.case, self.data, found)


def changes(case: SparseCase):
    """Other numbers, lengths, indices and query tokens, from none at all on."""
    count = case.batch
    for seed, lengths in enumerate(
        ((0,) * count, (300,) * count, (-7, 2**31 - 1, 64, 65)[:count], (1, 299, 0, 63)[:count])
    ):
        yield {"seed": 100 + seed, "lengths": lengths, "outside": (0.0, 0.5, 1.0, 0.1)[seed]}


@pytest.mark.parametrize("case", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("prepared", [False, True], ids=["called", "prepared"])
def test_a_captured_call_follows_what_changes(gpu, case, prepared):
    """Captured with lengths of zero, replayed with real ones."""
    step = Step(case.but(lengths=(0,) * case.batch), gpu)
    call = step.prepare() if prepared else step.decode
    graph, (out, lse) = capture(call)
    for facts in changes(case):
        step.enqueue_change(**facts)
        graph.replay()
        step.check(out, lse)


@pytest.mark.parametrize("case", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("captured", [False, True], ids=["plan before", "plan captured"])
@pytest.mark.parametrize("num_splits", [0, 1, 3])
def test_captured_calls_share_a_plan(gpu, case, num_splits, captured):
    """One made in the graph, which every replay makes anew, or one for lengths of zero that replays find stale."""
    step = Step(case.but(lengths=(0,) * case.batch), gpu)
    before = step.plan(num_splits=num_splits)

    def layers():
        plan = step.plan(num_splits=num_splits) if captured else before
        return step.decode(plan), step.decode(plan)

    graph, results = capture(layers)
    for facts in changes(case):
        step.enqueue_change(**facts)
        graph.replay()
        for out, lse in results:
            step.check(out, lse)


@pytest.mark.parametrize("case", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("num_splits", [0, 1, 3])
def test_a_plan_on_the_device_gives_the_bits_of_the_calls_own(gpu, case, num_splits):
    """Prepared or not; by other splits the result is the oracle's. Rows that no request owns are not written."""
    step = Step(case, gpu)
    owned = step.tensors.case.owners() > 0 if case.cu_seqlens_q is not None else slice(None)
    plan = step.plan(num_splits=num_splits)
    out, lse = step.decode(plan)
    step.check(out, lse)
    again = step.prepare(plan)()
    others = [again, step.decode()] if num_splits == 0 else [again]
    for other_out, other_lse in others:
        assert torch.equal(out[owned], other_out[owned])
        assert torch.equal(lse[:, owned], other_lse[:, owned])


@pytest.mark.parametrize("planned", [False, True], ids=["alone", "with a plan"])
def test_query_offsets_change_in_a_graph(gpu, planned):
    """The plan is stale then: it has tiles of query tokens that a request does not have, and none of others."""
    step = Step(STEPS["packed"], gpu)
    plan = step.plan() if planned else None
    graph, (out, lse) = capture(lambda: step.decode(plan))
    for seed, offsets in enumerate([(0, 0, 0, 0, 0), (0, 3, 6, 7, 8), (-3, 1, 2, 2, 5), (2, 3, 3, 3, 2**31 - 1)]):
        step.enqueue_change(seed=seed, cu_seqlens_q=offsets)
        graph.replay()
        step.check(out, lse)


@pytest.mark.parametrize("case", STEPS.values(), ids=STEPS)
def test_it_runs_on_the_current_stream(gpu, case):
    """Inputs arrive late on it: a call that ran elsewhere would have seen the old ones."""
    step, other = Step(case, gpu), Step(case.but(seed=77), gpu)
    step.decode()
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        wait_long()
        step.enqueue_copy(other)
        out, lse = step.decode()
        assert not side.query(), "the call returned before the stream was done"
        step.check(out, lse)


CAPTURE_FIRST = """
import torch
import flashmla

draw = torch.Generator("cuda").manual_seed(1)
q = torch.randn(2, 1, 128, 576, device="cuda", generator=draw).bfloat16()
kv_cache = torch.randn(64, 64, 1, 576, device="cuda", generator=draw).bfloat16()
indices = torch.randint(-1, 4096, (2, 1, 2048), device="cuda", generator=draw)
call = flashmla.prepare(flashmla.sparse_decode, q, kv_cache, indices)
torch.cuda.synchronize()
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    found = call()
graph.replay()
torch.cuda.synchronize()
want = flashmla.sparse_decode(q, kv_cache, indices)
assert all(torch.equal(one, other) for one, other in zip(found, want))
"""


@pytest.mark.usefixtures("gpu")
def test_a_capture_needs_no_call_before():
    run_alone(CAPTURE_FIRST)


@pytest.mark.parametrize("kv_format", ["bf16", "v32"])
def test_indices_of_any_bytes_are_survived(gpu, kv_format):
    """What reads outside the cache would kill the context, or bring NaN from around it."""
    case = STEP.but(kv_format=kv_format, index_dtype="int64", route="torch", lengths=None, topk=2048)
    step = Step(case, gpu)
    draw = np.random.default_rng(5)
    kv_cache = step.data.caches[""].kv_cache
    kv_cache.view(np.uint8)[...] = 0x38  # finite as a code, as a scale and as a number
    for _ in range(10):
        indices = draw.integers(0, 256, (2, 2, 2048, 8), np.uint8).view(np.int64)[..., 0]
        indices >>= draw.integers(0, 64, indices.shape)
        numbers = replace(step.data, caches={"": replace(step.data.caches[""], indices=indices)})
        calls.check_result(case, numbers, calls.run(case, gpu, numbers))


def test_all_processors_at_once(gpu):
    """The calls of a server: many requests of 2,048 indices each, heads of one and of two blocks."""
    for h_q, kv_format in ((64, "v32"), (128, "bf16")):
        main = Cache(kv_format, num_blocks=64, topk=2048, lengths=tuple(2048 - 13 * i for i in range(64)))
        case = SparseCase(main=main, batch=64, s_q=2, h_q=h_q, given=("lse",), route="torch", sink="some", seed=9)
        few = case.but(batch=4, lengths=main.lengths[:4])
        numbers = make_data(few)
        wide = {name: np.concatenate([getattr(numbers.caches[""], name)] * 16) for name in ("indices", "topk_length")}
        many = case.but(lengths=main.lengths[:4] * 16)
        together = replace(
            numbers, q=np.concatenate([numbers.q] * 16), caches={"": replace(numbers.caches[""], **wide)}
        )
        wanted, found = calls.reference(few, numbers), calls.run(many, gpu, together)
        for i in range(16):
            part = Result(found.out[4 * i : 4 * i + 4], found.lse[4 * i : 4 * i + 4])
            calls.close_to(few, part, wanted, calls.bound_of(few))
