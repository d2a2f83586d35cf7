"""Streams: work is enqueued in order on the framework's current stream, or on the one that is given."""

from __future__ import annotations

import pytest
import torch

import flashmla
from at_once import at_once
from backends import has
from gpu.steps import STEP, Step, wait_long

LENGTHS = (384, 130)


@pytest.fixture
def side():
    """A stream that does not wait for the default one."""
    return torch.cuda.Stream()


@pytest.fixture
def steps(gpu):
    """A step, and another one with the same shapes; the kernels are loaded."""
    step, later = Step(STEP, gpu), Step(STEP.but(seed=3, lengths=LENGTHS), gpu)
    flashmla.dense_decode(*step.inputs, causal=True, plan=flashmla.plan_decode(*step.inputs, causal=True))
    torch.cuda.synchronize()
    return step, later


def test_the_current_stream_is_used(steps, side):
    """Inputs arrive late on it: a call that ran elsewhere would have seen the old ones."""
    step, later = steps
    with torch.cuda.stream(side):
        wait_long()
        step.enqueue_copy(later)
        out, lse = flashmla.dense_decode(*step.inputs, causal=True)
        assert not side.query(), "the call returned before the stream was done"
        step.check(out, lse)


def test_a_plan_is_made_on_the_current_stream(steps, side):
    step, later = steps
    with torch.cuda.stream(side):
        wait_long()
        step.enqueue_copy(later)
        plan = flashmla.plan_decode(*step.inputs, causal=True)
        out, lse = flashmla.dense_decode(*step.inputs, causal=True, plan=plan)
        assert not side.query()
        step.check(out, lse)


@pytest.mark.parametrize("kind", ["torch", "integer", "protocol"])
def test_a_given_stream_is_used_and_waits_for_its_inputs(steps, side, kind):
    """The inputs are still being written on the current stream; the exporter makes the given one wait."""

    class Protocol:
        def __cuda_stream__(self):
            return 0, side.cuda_stream

    step, later = steps
    stream = {"torch": side, "integer": side.cuda_stream, "protocol": Protocol()}[kind]
    wait_long()
    step.enqueue_copy(later)
    out, lse = flashmla.dense_decode(*step.inputs, causal=True, stream=stream)
    assert not side.query()
    side.synchronize()
    step.check(out, lse)


def test_a_given_stream_orders_plan_and_layers(steps, side):
    step, _ = steps
    plan = flashmla.plan_decode(*step.inputs, causal=True, num_splits=4, stream=side)
    results = [flashmla.dense_decode(*step.inputs, causal=True, plan=plan, stream=side) for _ in range(3)]
    side.synchronize()
    for out, lse in results:
        step.check(out, lse)


def test_calls_back_to_back_may_share_a_workspace(steps):
    """In one stream the next call waits for the one before, although its launch may overlap its end."""
    step, _ = steps
    plan = flashmla.plan_decode(*step.inputs, causal=True, num_splits=6)
    size = flashmla.dense_decode_workspace_size(*step.inputs, causal=True, plan=plan)
    workspace = torch.empty(size, dtype=torch.uint8, device="cuda")
    results = [flashmla.dense_decode(*step.inputs, causal=True, plan=plan, workspace=workspace) for _ in range(50)]
    first = results[0]
    step.check(*first)
    for out, lse in results:
        assert torch.equal(out, first[0])
        assert torch.equal(lse, first[1])


def test_calls_see_what_the_stream_did_just_before(gpu, steps):
    """Lengths and pages change between calls without any pause: a kernel that began too early would see old ones."""
    step, later = steps
    first = Step(STEP, gpu)
    turns = [(first, later)[turn % 2] for turn in range(40)]
    torch.cuda.synchronize()
    results = []
    for turn in turns:
        step.enqueue_copy(turn)
        plan = flashmla.plan_decode(*step.inputs, causal=True)
        results.append(flashmla.dense_decode(*step.inputs, causal=True, plan=plan))
    for turn, (out, lse) in zip(turns[:2], results[:2], strict=True):
        step.check(out, lse, turn.data)
    for number, (out, lse) in enumerate(results):
        assert torch.equal(out, results[number % 2][0])
        assert torch.equal(lse, results[number % 2][1])


def test_threads_with_streams_of_their_own(gpu):
    cases = [STEP.but(seed=seed, dtype=("bfloat16", "float16")[seed % 2]) for seed in range(4)]
    steps = [Step(case, gpu) for case in cases]
    torch.cuda.synchronize()

    def work(step):
        with torch.cuda.stream(torch.cuda.Stream()):
            made = [flashmla.dense_decode(*step.inputs, causal=True) for _ in range(20)]
            torch.cuda.current_stream().synchronize()
        return made

    for step, made in zip(steps, at_once(work, steps), strict=True):
        step.check(*made[0])
        for out, lse in made:
            assert torch.equal(out, made[0][0])
            assert torch.equal(lse, made[0][1])


def test_cupys_current_stream_is_used(gpu):
    if "cupy" not in gpu.adapters:
        pytest.skip("cupy is installed, but not for GPUs" if has("cupy") else "cupy is not installed")
    import cupy

    from ops.dense_decode import calls

    case = STEP.but(route="cupy", dtype="float16")
    old, new = calls.Tensors(case, gpu), calls.Tensors(case.but(seed=3, lengths=LENGTHS), gpu)
    flashmla.dense_decode(*old.package_inputs(), causal=True)
    cupy.cuda.runtime.deviceSynchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    with torch.cuda.stream(torch.cuda.ExternalStream(stream.ptr)):
        wait_long()
    with stream:
        for mine, theirs in zip(old.package_inputs(), new.package_inputs(), strict=True):
            mine[...] = theirs
        out, lse = flashmla.dense_decode(*old.package_inputs(), causal=True)
        assert not stream.done
        stream.synchronize()
        calls.check_result(case, new.data, calls.Result(out.get(), lse.get()))
