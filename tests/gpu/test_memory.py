"""Memory, repeats, devices and the first call."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import flashmla
from backends import Backend, TorchAdapter
from gpu.steps import STEP, Step, run_alone
from ops.dense_decode import calls


def allocated_by(work) -> tuple[int, int]:
    """(bytes at the peak, bytes kept) that were asked of PyTorch's allocator."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    kept = work()
    torch.cuda.synchronize()
    after = torch.cuda.memory_stats()
    del kept
    return after["requested_bytes.all.peak"] - before, after["requested_bytes.all.current"] - before


def outputs(step: Step) -> int:
    """Bytes of out and lse."""
    rows = step.case.batch * step.case.s_q * step.case.h_q
    return rows * 512 * 2 + rows * 4


@pytest.mark.parametrize("num_splits", [None, 0, 1, 5])
def test_a_call_allocates_its_outputs_and_the_workspace_it_asks_for(gpu, num_splits):
    step = Step(STEP, gpu)
    plan = None if num_splits is None else flashmla.plan_decode(*step.inputs, causal=True, num_splits=num_splits)
    size = flashmla.dense_decode_workspace_size(*step.inputs, causal=True, plan=plan)
    peak, kept = allocated_by(lambda: flashmla.dense_decode(*step.inputs, causal=True, plan=plan))
    assert kept == outputs(step)
    assert peak == outputs(step) + size


def test_a_plan_keeps_its_buffer_alone(gpu):
    step = Step(STEP, gpu)
    size = flashmla.plan_decode_size(*step.inputs, causal=True)
    assert allocated_by(lambda: flashmla.plan_decode(*step.inputs, causal=True)) == (size, size)


def test_a_call_with_everything_given_allocates_nothing(gpu):
    step = Step(STEP, gpu)
    plan = flashmla.plan_decode(*step.inputs, causal=True)
    out, lse = flashmla.dense_decode(*step.inputs, causal=True, plan=plan)
    size = flashmla.dense_decode_workspace_size(*step.inputs, causal=True, plan=plan)
    given = {"out": out, "lse": lse, "workspace": torch.empty(size, dtype=torch.uint8, device="cuda")}
    out.fill_(7)
    assert allocated_by(lambda: flashmla.dense_decode(*step.inputs, causal=True, plan=plan, **given)) == (0, 0)
    step.check(out, lse)


@pytest.mark.parametrize(("batch", "s_q"), [(0, 1), (2, 0), (0, 0)])
def test_an_empty_call_launches_nothing(gpu, batch, s_q):
    case = STEP.but(s_q=s_q, lengths=(5,) * batch)
    step = Step(case, gpu)
    assert flashmla.dense_decode_workspace_size(*step.inputs) == 0
    plan = flashmla.plan_decode(*step.inputs)
    for options in ({}, {"plan": plan}):
        out, lse = flashmla.dense_decode(*step.inputs, **options)
        assert out.shape == (batch, s_q, case.h_q, 512)
        assert lse.shape == (batch, case.h_q, s_q)


@pytest.mark.parametrize("num_splits", [None, 0, 1, 9])
@pytest.mark.parametrize("case", [STEP, STEP.but(dtype="float16", h_q=128, h_kv=1)], ids=["bfloat16", "float16"])
def test_a_hundred_repeats_are_equal_bit_for_bit(gpu, case, num_splits):
    step = Step(case, gpu)
    plan = None if num_splits is None else flashmla.plan_decode(*step.inputs, causal=True, num_splits=num_splits)
    out, lse = flashmla.dense_decode(*step.inputs, causal=True, plan=plan)
    step.check(out, lse)
    for _ in range(100):
        again, lse_again = flashmla.dense_decode(*step.inputs, causal=True, plan=plan)
        assert torch.equal(again, out)
        assert torch.equal(lse_again, lse)


@pytest.mark.parametrize("current", [0, 1])
@pytest.mark.parametrize("device", [0, 1])
def test_several_devices_in_one_process(current, device):
    if torch.cuda.device_count() < 2:
        pytest.skip(f"{torch.cuda.device_count()} GPU is there, 2 are needed")
    backend = Backend("gpu", (2, device), ("bfloat16",), (64,), {"torch": TorchAdapter(f"cuda:{device}")})
    with torch.cuda.device(device):
        step = Step(STEP, backend)
        torch.cuda.synchronize()
    with torch.cuda.device(current):
        plan = flashmla.plan_decode(*step.inputs, causal=True, num_splits=3)
        results = [flashmla.dense_decode(*step.inputs, causal=True, plan=given) for given in (None, plan)]
        side = torch.cuda.Stream(device)
        results.append(flashmla.dense_decode(*step.inputs, causal=True, stream=side))
        side.synchronize()
        assert torch.cuda.current_device() == current
    for out, lse in results:
        assert out.device.index == lse.device.index == device
        step.check(out, lse)
    if current != device:
        elsewhere = Backend("gpu", (2, current), ("bfloat16",), (64,), {"torch": TorchAdapter(f"cuda:{current}")})
        other = Step(STEP, elsewhere)
        with pytest.raises(flashmla.InvalidArgumentError, match="device"):
            flashmla.dense_decode(*other.inputs, causal=True, plan=plan)
        with pytest.raises(flashmla.InvalidArgumentError, match="all tensors must be on one device"):
            flashmla.dense_decode(step.inputs[0], *other.inputs[1:], causal=True)


FIRST_CALL = """
import time, torch
import flashmla
q = torch.zeros(1, 1, 128, 576, dtype=torch.bfloat16, device="cuda")
kv_cache = torch.zeros(8, 64, 1, 576, dtype=torch.bfloat16, device="cuda")
table = torch.arange(8, dtype=torch.int32, device="cuda")[None]
lengths = torch.full((1,), 512, dtype=torch.int32, device="cuda")
torch.cuda.synchronize()
start = time.perf_counter()
flashmla.dense_decode(q, kv_cache, table, lengths)
torch.cuda.synchronize()
print(time.perf_counter() - start)
"""


def test_the_first_call_takes_at_most_a_second(figure):
    """In a process whose context exists: the kernels of a call with splits are loaded. Median of three processes."""
    seconds = statistics.median(float(run_alone(FIRST_CALL)) for _ in range(3))
    figure("first GPU call, kernels loaded", f"{1000 * seconds:.0f} ms")
    assert seconds <= 1


def test_a_call_leaves_no_error_behind(gpu):
    """A refused call does not disturb the context: the next one is right."""
    step = Step(STEP, gpu)
    with pytest.raises(flashmla.InvalidArgumentError):
        flashmla.dense_decode(step.inputs[0].float(), *step.inputs[1:])
    calls.check(STEP.but(route="c"), gpu)


SANITIZER_CASES = Path(__file__).with_name("sanitizer_cases.py")


@pytest.mark.timeout(300, method="thread")
def test_the_cases_for_compute_sanitizer_are_right():
    """Without the tool; see the script for how to run it with."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, SANITIZER_CASES], env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
