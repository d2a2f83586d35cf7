"""What the checking mode asks the driver for, and how it tells what a device wrote, on a stub of CUDA 12.0."""

from __future__ import annotations

import pytest

from ops.dense_decode.shape_only import ADDRESSES, STEP
from stub_driver.launches import PROCESSORS, QUIET, decoded, family, same

ON = "import os; os.environ['FLASHMLA_CHECK'] = '1'; lib.flashmla_read_environment()\n"
# What the kernel writes when it has found something, where it writes that, and the report of it.
FIND = """
import ctypes
from dsl_kernels.core.finding_params import CLAIMED, FOUND, LENGTH, LIMIT, PAGE, READY, REPORTS, VALUE
def record_of(at, kind):
    return (ctypes.c_int64 * 16).from_address(at + 128 * kind)
def find(at, kind, many, request, position, value, limit):
    place, words = (ctypes.c_int32 * 2).from_address(at + 128 * kind), record_of(at, kind)
    words[FOUND] += many
    if words[CLAIMED] == words[REPORTS]:
        words[CLAIMED] += 1
        place[0], place[1], words[VALUE], words[LIMIT] = request, position, value, limit
        words[READY] = words[CLAIMED]
def findings():
    import json, os
    lines = [json.loads(line) for line in open(os.environ["STUB_LOG"])]
    [launch, *_] = [line for line in lines if line["call"] == "cuLaunchKernelEx" and "check_decode" in line["kernel"]]
    return int.from_bytes(bytes.fromhex(launch["params"][-1]), "little")
def report():
    tell_status(lib.flashmla_check_report())
"""
PAGE = "block_table has 3 page numbers out of range: block_table[2, 7] is -5; it must be in [0, 100)"


def test_a_call_is_looked_at_by_the_kernel_before_its_own(cuda_12_0):
    ran = cuda_12_0.run(ON + f"decode(); made = plan(); decode(plan=made)\n{'decode(STEP.but(s_q=1))'}")
    assert [line[:3] for line in ran.told] == [[0, "", 0]] * 4
    families = [family(launch["kernel"]) for launch in ran.launches()]
    assert families == [
        *("check_decode", "plan", "dense_decode", "combine", "check_decode", "plan"),
        *("check_decode", "dense_decode", "combine", "check_decode", "plan", "dense_decode", "combine"),
    ]
    decode, plan, *_ = [launch for launch in ran.launches() if family(launch["kernel"]) == "check_decode"]
    wanted = {
        "lengths": ADDRESSES["cache_seqlens"],
        "capacity": STEP.max_blocks * STEP.page_size,
        "page_size": STEP.page_size,
        "num_blocks": STEP.num_blocks,
        "batch": STEP.batch,
        "s_q": STEP.s_q,
        "cu_seqlens_q": 0,
        "global_seqlens": 0,
    }
    same(decoded(decode), wanted | {"block_table": ADDRESSES["block_table"]})
    same(decoded(plan), wanted | {"block_table": 0})
    assert decode["grid"] == [min(STEP.batch, PROCESSORS), 1, 1]
    assert len(ran.of("cuMemHostAlloc")) == 1
    assert set(ran.names()) <= QUIET | {"cuMemHostAlloc", "cuStreamIsCapturing"}


def test_off_it_costs_nothing(cuda_12_0):
    ran = cuda_12_0.run("decode(); made = plan(); decode(plan=made)\n" + FIND + "report()")
    assert "check_decode" not in {family(launch["kernel"]) for launch in ran.launches()}
    assert set(ran.names()) <= QUIET
    assert ran.told[-1] == [0, "", 0]


def test_the_next_call_fails_once_with_what_was_found(cuda_12_0):
    ran = cuda_12_0.run(ON + FIND + "decode(); find(findings(), PAGE, 3, 2, 7, -5, 100); decode(); decode(); report()")
    assert [line[0] for line in ran.told] == [0, 119, 0, 0]
    assert ran.told[1][1:3] == ["a call before this one, on CUDA device 0: " + PAGE, 0]
    assert len(ran.launches()) == 8, "the call that tells launches nothing"


def test_a_report_tells_one_kind_after_the_other_and_counts_on(cuda_12_0):
    ran = cuda_12_0.run(
        ON + FIND + "decode(); at = findings(); report()\n"
        "find(at, PAGE, 3, 2, 7, -5, 100); find(at, LENGTH, 1, 3, 3, 9, 8); find(at, LENGTH, 4, 5, 5, 1, 8)\n"
        "report(); report(); report(); find(at, PAGE, 1, 0, 1, 2, 3); report(); report()"
    )
    statuses = [line[0] for line in ran.told]
    assert statuses == [0, 0, 119, 119, 0, 119, 0]
    assert "cache_seqlens has 5 lengths out of range: cache_seqlens[3] is 9; it must be in [0, 8]" in ran.told[2][1]
    assert PAGE in ran.told[3][1]
    assert "block_table has 1 page number out of range: block_table[0, 1] is 2; it must be in [0, 3)" in ran.told[5][1]


def test_what_is_still_being_written_is_told_later(cuda_12_0):
    ran = cuda_12_0.run(
        ON + FIND + "decode(); words = record_of(findings(), PAGE); words[FOUND] = words[CLAIMED] = 1; report()\n"
        "words[READY] = 1; report(); report()"
    )
    assert [line[0] for line in ran.told] == [0, 0, 119, 0]


def test_what_was_claimed_for_the_next_report_but_counted_in_this_one_is_told_with_the_next(cuda_12_0):
    """A kernel may count before the host reads the count, and claim behind that."""
    ran = cuda_12_0.run(
        ON + FIND + "decode(); at = findings(); find(at, PAGE, 3, 2, 7, -5, 100); report()\n"
        "find(at, PAGE, 0, 1, 6, -4, 100); report(); find(at, PAGE, 2, 0, 1, 2, 3); report(); report()"
    )
    assert [line[0] for line in ran.told] == [0, 119, 0, 119, 0]
    assert "block_table has 2 page numbers out of range: block_table[1, 6] is -4; it must be" in ran.told[3][1]


def test_devices_have_their_own_findings(cuda_12_0):
    ran = cuda_12_0.run(
        ON + FIND + "decode(device=1); find(findings(), PAGE, 3, 2, 7, -5, 100); decode(device=0); report()", devices=2
    )
    assert [line[0] for line in ran.told] == [0, 0, 119]
    assert "on CUDA device 1: " in ran.told[2][1]


def test_prepared_calls_are_looked_at_if_they_were_prepared_in_the_mode(cuda_12_0):
    ran = cuda_12_0.run(
        "before = prepare_decode()\n" + ON + "made = prepare_decode(); run_decode(before); run_decode(made)"
    )
    assert [family(launch["kernel"]) for launch in ran.launches()].count("check_decode") == 1


@pytest.mark.parametrize("first", ["decode()", "plan()"])
def test_the_memory_is_not_made_during_a_capture(cuda_12_0, first):
    ran = cuda_12_0.run(ON + first, capturing=1)
    status, sentence, depth, *_ = ran.told[0]
    assert (status, depth) == (118, 0)
    assert "stream is captured, and the memory of FLASHMLA_CHECK is not there yet" in sentence
    assert ran.launches() == []
    assert ran.of("cuMemHostAlloc") == []


@pytest.mark.parametrize("call", ["decode()", "plan()", "prepare_decode()"])
def test_memory_that_the_driver_does_not_give_is_asked_for_again(cuda_12_0, call):
    ran = cuda_12_0.run(ON + f"fail('cuMemHostAlloc', 2); {call}; {call}")
    assert [line[0] for line in ran.told] == [301, 0]
    assert ran.told[0][1:3] == ["CUDA driver: mem_host_alloc: the driver's words for 2 (2)", 0]
    assert [call["result"] for call in ran.of("cuMemHostAlloc")] == [2, 0]


def test_a_value_that_is_neither_0_nor_1_is_told(cuda_12_0):
    code = ON.replace("'1'", "'yes'") + "tell(ffi.string(lib.flashmla_environment_error()).decode())"
    assert cuda_12_0.run(code).told == [['FLASHMLA_CHECK is "yes"; it must be 0 or 1']]
