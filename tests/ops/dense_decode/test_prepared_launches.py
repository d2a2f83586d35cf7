"""Prepared calls of dense_decode and plan_decode on a stub of CUDA 12.0: what they ask the driver for, and when."""

from __future__ import annotations

import pytest

import c_abi
from ops.dense_decode import launches as expected
from ops.dense_decode.case import Case, Shard
from ops.dense_decode.shape_only import STEP
from stub_driver.launches import decoded, map_addresses

DRIVER = c_abi.constant("ERROR_DRIVER")
BY = 1 << 20  # bytes
IN_CONTEXT = ["cuCtxGetCurrent", "cuCtxGetDevice"]
ENCODE, REPLACE, LAUNCH = "cuTensorMapEncodeTiled", "cuTensorMapReplaceAddress", "cuLaunchKernelEx"
LOADS = ("cuLibraryLoadData", "cuLibraryGetKernel", "cuKernelSetAttribute")


def parameters(launch: dict) -> dict:
    """All of a launch's parameters; of tensor maps what they point to."""
    found = decoded(launch)
    return found | map_addresses(launch)


def same_launches(found: list[dict], wanted: list[dict]) -> None:
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        for name in ("kernel", "grid", "block", "stream", "shared_bytes", "attributes", "device"):
            assert one[name] == other[name], name
        assert parameters(one) == parameters(other)


CASES = {
    "plain": STEP,
    "short": STEP.but(max_blocks=1),
    "varlen": STEP.but(s_q=2, cu_seqlens_q=(0, 1, 2, 3, 4, 5, 6, 7, 8), total_q=8),
    "shard": STEP.but(shard=Shard(rank=1, world=4, interleave=16), global_seqlens=(1,) * 8, given=()),
    "fp16 pages": STEP.but(dtype="float16", page_size=16, h_q=16),
    "invariant": STEP.but(batch_invariant=True),
    "two parts": STEP.but(parted=True),
    "no RoPE columns": STEP.but(d_qk=512),
}


@pytest.mark.parametrize("planned", [False, True], ids=["alone", "with a plan"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_run_launches_what_the_call_does(cuda_12_0, case: Case, planned):
    """At the addresses it is given, with the plan and on the stream it is given; the kernels are loaded before."""
    plan = f"plan({case!r})" if planned else "None"
    prepared = cuda_12_0.run(
        f"made = prepare_decode({case!r}, plan={plan}); tell('prepared'); later = {plan}\n"
        f"run_decode(made, {BY}, stream=7, **(dict(plan=later) if later else {{}}))"
    )
    plain = cuda_12_0.run(
        f"first, later = {plan}, {plan}\n"
        f"made = prepare_decode({case!r}, plan=first)\n"
        f"call = moved(made[1], {BY}, stream=7, **(dict(plan=later) if later else {{}})); tell_status(call.run())"
    )
    assert {line[0] for line in [*prepared.told, *plain.told]} == {0, "prepared"}
    same_launches(prepared.launches(), plain.launches())


def test_a_run_loads_nothing(cuda_12_0):
    """So that it can be captured in a graph without a run before it. Preparing it launches nothing."""
    ran = cuda_12_0.run("made = prepare_decode(); run_decode(made); run_decode(made, 64)")
    names = ran.names()
    run = names.index(REPLACE)
    assert all(names[:run].count(name) == 3 for name in LOADS)
    assert names[:run].count(ENCODE) == 3
    assert LAUNCH not in names[:run]
    assert not {ENCODE, *LOADS} & set(names[run:])


@pytest.mark.parametrize(
    ("code", "calls"),
    [
        ("decode(plan=made)", [ENCODE, ENCODE, ENCODE, *IN_CONTEXT, LAUNCH, LAUNCH]),
        ("decode()", [ENCODE, ENCODE, ENCODE, *IN_CONTEXT, LAUNCH, LAUNCH, LAUNCH]),
        ("decode(STEP.but(max_blocks=1))", [ENCODE, ENCODE, ENCODE, *IN_CONTEXT, LAUNCH, LAUNCH]),
        ("plan()", [*IN_CONTEXT, LAUNCH]),
        ("run_decode(planned, plan=made)", [REPLACE, REPLACE, REPLACE, *IN_CONTEXT, LAUNCH, LAUNCH]),
        ("run_decode(alone)", [REPLACE, REPLACE, REPLACE, *IN_CONTEXT, LAUNCH, LAUNCH, LAUNCH]),
        ("run_plan(scheduler)", [*IN_CONTEXT, LAUNCH]),
    ],
)
def test_a_call_makes_no_driver_call_that_it_does_not_need(cuda_12_0, code, calls):
    """Once everything is loaded and a context of the device is current: most of what a call costs the host."""
    prepare = "made = plan(); planned = prepare_decode(plan=made); alone = prepare_decode(); scheduler = prepare_plan()"
    ran = cuda_12_0.run(f"enter(0); {prepare}; {code}; driver.cuInit(0); {code}")
    assert all(line[0] == 0 for line in ran.told)
    names = ran.names()
    begin = len(names) - names[::-1].index("cuInit")  # behind the one between the two calls
    assert names[begin:] == calls


@pytest.mark.parametrize("current", [None, 0, 1])
@pytest.mark.parametrize("device", [0, 1])
def test_a_run_enters_the_device_of_its_tensors(cuda_12_0, current, device):
    enter = "" if current is None else f"enter({current})\n"
    ran = cuda_12_0.run(
        f"made = prepare_decode(device={device}); scheduler = prepare_plan(device={device})\n"
        f"{enter}run_decode(made); plan = run_plan(scheduler)\n"
        f"planned = prepare_decode(device={device}, plan=plan); run_decode(planned)",
        devices=2,
    )
    depths = [line[2] for line in ran.told]
    assert [line[0] for line in ran.told] == [0] * 6
    assert depths == [0, 0, *([0 if current is None else 1] * 4)]
    assert {launch["device"] for launch in ran.launches()} == {device}


def test_a_call_may_be_prepared_in_a_context_of_another_device(cuda_12_0):
    ran = cuda_12_0.run("enter(1); made = prepare_decode(device=0); run_decode(made)", devices=2)
    assert [(line[0], line[2]) for line in ran.told] == [(0, 1)] * 2
    assert {call["of_device"] for call in ran.of("cuKernelSetAttribute")} == {0}
    assert {launch["device"] for launch in ran.launches()} == {0}


@pytest.mark.parametrize("symbol", [ENCODE, *LOADS])
@pytest.mark.parametrize("after", [0, 1])
def test_what_fails_while_preparing_is_quoted_and_can_be_tried_again(cuda_12_0, symbol, after):
    alone = "STEP.but(s_q=1, h_q=16)"  # a kernel without clusters, which no size query loads
    ran = cuda_12_0.run(
        f"fail('{symbol}', 999, {after}); prepare_decode({alone}); made = prepare_decode({alone}); run_decode(made)"
    )
    assert [line[0] for line in ran.told] == [DRIVER, 0, 0]
    assert ran.told[0][1].endswith(": the driver's words for 999 (999)")
    assert [line[2] for line in ran.told] == [0, 0, 0]
    loads = [call["image"] for call in ran.of("cuLibraryLoadData") if call["result"] == 0]
    assert len(loads) == len(set(loads)) == 3


@pytest.mark.parametrize(
    ("symbol", "after"), [(REPLACE, 0), (REPLACE, 1), (REPLACE, 2), (LAUNCH, 0), ("cuCtxGetCurrent", 0)]
)
def test_a_run_that_fails_leaves_the_prepared_call_as_it_was(cuda_12_0, symbol, after):
    ran = cuda_12_0.run(
        f"made = prepare_decode(); fail('{symbol}', 999, {after}); run_decode(made, {BY}); run_decode(made, {BY}); "
        f"decode()"
    )
    assert [line[0] for line in ran.told] == [0, DRIVER, 0, 0]
    _, again, _, _, plain, _ = [launch for launch in ran.launches() if launch["result"] == 0]
    assert map_addresses(again) == {name: address + BY for name, address in map_addresses(plain).items()}


def test_a_forced_kernel_is_that_of_the_time_it_was_prepared(cuda_12_0):
    force = "import os; os.environ['FLASHMLA_FORCE_KERNEL'] = 'dense_decode_bf16_576_cluster1'; read()"
    ran = cuda_12_0.run(
        "read = lib.flashmla_read_environment; made = prepare_decode(); "
        f"{force}; run_decode(made); forced = prepare_decode(); run_decode(forced)"
    )
    assert [line[3] for line in (ran.told[1], ran.told[3])] == [
        "dense_decode_bf16_576_cluster2",
        "dense_decode_bf16_576_cluster1",
    ]


THREADS = """
import threading
made = [prepare_decode(device=device) for device in (0, 1)]
start = threading.Barrier(8)
def work(number):
    start.wait()
    for turn in range(5):
        run_decode(made[number // 4], 64 * (10 * number + turn))
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_threads_share_a_prepared_call(cuda_12_0):
    ran = cuda_12_0.run(THREADS, devices=2)
    assert [line[:3] for line in ran.told] == [[0, "", 0]] * 42
    decodes = [launch for launch in ran.launches() if "dense_decode" in launch["kernel"]]
    assert len({map_addresses(launch)["tma_q"] for launch in decodes}) == 40, "each with its own addresses"
    for launch in decodes:
        moved = map_addresses(launch)["tma_q"] - expected.ADDRESSES["q"]
        assert decoded(launch)["out"] == expected.ADDRESSES["out"] + moved
        assert launch["device"] == moved // 64 // 40


@pytest.mark.parametrize("case", [STEP.but(lengths=()), STEP.but(s_q=0)], ids=["batch 0", "s_q 0"])
def test_an_empty_call_needs_no_driver(cuda_12_0, case):
    ran = cuda_12_0.run(f"run_decode(prepare_decode({case!r})); run_plan(prepare_plan({case!r}))")
    assert [line[0] for line in ran.told] == [0] * 4
    assert ran.calls == []
