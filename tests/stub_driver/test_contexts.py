"""Devices, contexts and threads: a call runs in a context of its tensors' device and keeps the caller's as it was."""

from __future__ import annotations

from collections import Counter

import pytest


def test_the_callers_context_of_the_device_is_used(cuda_12_0):
    ran = cuda_12_0.run("enter(0); decode(); decode(plan=plan())")
    assert [line[2] for line in ran.told] == [1, 1, 1]
    assert ran.names().count("cuCtxPushCurrent_v2") == 1, "the caller's own"
    assert "cuCtxPopCurrent_v2" not in ran.names()


@pytest.mark.parametrize("current", [None, 0, 1])
@pytest.mark.parametrize("device", [0, 1])
def test_work_runs_on_the_device_of_the_tensors(cuda_12_0, current, device):
    enter = "" if current is None else f"enter({current})\n"
    ran = cuda_12_0.run(
        f"{enter}decode(device={device}); decode(device={device}, plan=plan(device={device}))", devices=2
    )
    depth = 0 if current is None else 1
    assert [line[0] for line in ran.told] == [0, 0, 0]
    assert {line[2] for line in ran.told} == {depth}
    assert {launch["device"] for launch in ran.launches()} == {device}
    assert {call["of_device"] for call in ran.of("cuKernelSetAttribute")} == {device}


def test_a_second_device_loads_nothing_again_but_sets_its_own_limits(cuda_12_0):
    ran = cuda_12_0.run("decode(device=0); decode(device=1); decode(device=0)", devices=2)
    assert [line[0] for line in ran.told] == [0, 0, 0]
    assert len(ran.of("cuLibraryLoadData")) == 3
    assert Counter(call["of_device"] for call in ran.of("cuKernelSetAttribute")) == {0: 3, 1: 3}
    assert [launch["device"] for launch in ran.launches()] == [0] * 3 + [1] * 3 + [0] * 3


def test_the_primary_context_is_retained_once(cuda_12_0):
    ran = cuda_12_0.run("decode(); decode(); decode(device=1)", devices=2)
    assert len(ran.of("cuDevicePrimaryCtxRetain")) == 2


THREADS = """
import threading
start = threading.Barrier(8)
def work(number):
    start.wait()
    for _ in range(5):
        decode(STEP.but(dtype=('bfloat16', 'float16')[number % 2]), device=number // 4)
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_threads_load_each_kernel_once(cuda_12_0):
    ran = cuda_12_0.run(THREADS, devices=2)
    assert [line[:3] for line in ran.told] == [[0, "", 0]] * 40
    images = Counter(call["image"] for call in ran.of("cuLibraryLoadData"))
    assert len(images) == 5
    assert set(images.values()) == {1}
    assert len(ran.of("cuInit")) == 1
    assert len(ran.of("cuKernelSetAttribute")) == 10
    assert len(ran.launches()) == 120
    for thread in {call["thread"] for call in ran.calls}:
        names = [call["call"] for call in ran.calls if call["thread"] == thread]
        entered = 5 + names.count("cuKernelSetAttribute")  # once a call, and once a kernel that it loads
        stack = [name for name in names if "CtxP" in name]
        assert stack[::2] == ["cuCtxPushCurrent_v2"] * entered
        assert stack[1::2] == ["cuCtxPopCurrent_v2"] * entered


def test_synchronising_enters_the_device(cuda_12_0):
    ran = cuda_12_0.run("enter(0); tell(lib.flashmla_stream_synchronize(1, ffi.cast('void *', 5)))", devices=2)
    assert ran.told == [[0]]
    assert [(call["device"], call["stream"]) for call in ran.of("cuStreamSynchronize")] == [(1, 5)]
    assert ran.names()[-1] == "cuCtxPopCurrent_v2"
