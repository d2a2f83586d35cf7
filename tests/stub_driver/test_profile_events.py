"""The profiler on a GPU, as far as the calls of the driver tell: events, captures, lengths, and what it may not do."""

from __future__ import annotations

from collections import Counter

import pytest

import c_abi
from stub_driver.profiles import CAPTURED, COUNTED, FAILED, KNOWN, LOADED, LOST, OWN_PLAN, PREPARED, SKIPPED, profiled


def test_a_call_has_an_event_on_its_stream_before_and_behind_its_launches(cuda_12_0):
    records, states, ran = profiled(cuda_12_0, "start(); decode(stream=7); read()")
    (record,) = records
    assert states == [[1, 1, 0, 0]]
    assert (record["device_time"], record["device_ns"], record["device_id"]) == (KNOWN, 250_000, 0)
    assert (record["operation"], record["kernel"]) == ("dense_decode", "dense_decode_bf16_576_cluster2")
    assert record["stream"] == 7
    assert record["flags"] & (OWN_PLAN | LOADED) == OWN_PLAN | LOADED
    names = [call["call"] for call in ran.of("cuEventRecord", "cuLaunchKernelEx")]
    assert names == ["cuEventRecord"] * 2 + ["cuLaunchKernelEx"] * 3 + ["cuEventRecord"], "the first is of the device"
    assert {call["stream"] for call in ran.of("cuEventRecord")} == {7}
    assert all(call["result"] == 0 for call in ran.calls)


def test_nobody_gave_the_pieces_of_two_formats(cuda_12_0):
    """They are attended by launches of their own, whose pieces stand where given splits do."""
    from ops.sparse_decode.test_launches import EXTRA, STEP, in_format

    two = STEP.but(extra=in_format(STEP.but(extra=EXTRA), "v32").extra)
    records, _, ran = profiled(cuda_12_0, f"start(); sparse_decode({two!r}); read()")
    assert [line[:2] for line in ran.told if line[0] == 0] == [[0, ""]]
    assert [record["num_splits"] for record in records] == [0]


def test_a_call_that_knows_its_cuts_made_no_schedule(cuda_12_0):
    from ops.sparse_decode.test_launches import STEP

    with_lengths = STEP.but(lengths=(1,) * STEP.batch)
    code = f"start(); sparse_decode({STEP!r}); sparse_decode({with_lengths!r}); read()"
    records, _, _ = profiled(cuda_12_0, code)
    assert [record["flags"] & OWN_PLAN for record in records] == [0, OWN_PLAN]


def test_the_second_call_of_a_device_makes_nothing(cuda_12_0):
    """No allocation, no event, no question to the driver but whether the stream is captured."""
    _, _, ran = profiled(cuda_12_0, "start(); decode(); tell('again'); driver.cuInit(9); decode(); read()")
    names = ran.names()
    second = names[names.index("cuInit", 1) + 1 :]
    second = second[: len(second) - second[::-1].index("cuEventRecord")]
    assert not {"cuEventCreate", "cuMemHostAlloc", "cuEventQuery", "cuStreamSynchronize"} & set(second)
    assert second.count("cuEventRecord") == 2
    assert second.count("cuStreamIsCapturing") == 1


def test_off_the_driver_sees_nothing_of_it(cuda_12_0):
    ran = cuda_12_0.run("decode(); decode()")
    assert not [name for name in ran.names() if name.startswith("cuEvent") or name == "cuStreamIsCapturing"]


def test_what_is_captured_has_no_device_time(cuda_12_0):
    records, _, ran = profiled(cuda_12_0, "start(); decode(); read()", capturing=1)
    assert [(r["device_time"], r["device_ns"]) for r in records] == [(CAPTURED, -1)]
    assert not ran.of("cuEventRecord", "cuEventCreate", "cuEventQuery")


def test_what_is_pending_is_not_read_and_waits_for_nothing(cuda_12_0):
    code = "import os\nstart(); decode(); decode(); read(); del os.environ['STUB_BUSY']; read()"
    code = code.replace("del os.environ['STUB_BUSY']", "os.unsetenv('STUB_BUSY')")
    records, states, ran = profiled(cuda_12_0, code, busy=1)
    assert states == [[0, 2, 0, 2], [2, 2, 0, 0]]
    assert {record["device_time"] for record in records} == {KNOWN}
    assert not ran.of("cuStreamSynchronize")


def test_making_events_is_no_time_of_a_call(cuda_12_0):
    """The first call of a device makes thousands of them."""
    records, _, _ = profiled(cuda_12_0, "decode(); start(max_pending=20000); decode(); decode(); read()")
    assert records[0]["host_ns"] < 20_000 * 1_000, "of which the stub's calls take more than a microsecond each"


def test_calls_beyond_the_events_have_no_device_time(cuda_12_0):
    code = "import os\nstart(max_pending=2)\nfor _ in range(3): decode()\nos.unsetenv('STUB_BUSY'); read()"
    records, states, _ = profiled(cuda_12_0, code, busy=1)
    assert [record["device_time"] for record in records] == [KNOWN, KNOWN, LOST]
    assert states == [[3, 3, 0, 0]]


def test_events_are_taken_again(cuda_12_0):
    """Of the calls that were done first, whose times were not read; those that were are known."""
    code = "start(max_pending=2)\nfor _ in range(7): decode()\nread()\ndecode(); read()"
    records, _, ran = profiled(cuda_12_0, code)
    assert [record["device_time"] for record in records] == [SKIPPED] * 5 + [KNOWN] * 3
    assert [record["device_ns"] for record in records] == [-1] * 5 + [250_000] * 3
    assert [record["number"] for record in records] == list(range(8))
    assert all(record["bytes"] == records[0]["bytes"] > 0 for record in records)
    assert len(ran.of("cuEventCreate")) == 2 * 2 + 1


def test_the_oldest_are_dropped_and_counted(cuda_12_0):
    records, states, _ = profiled(cuda_12_0, "start(max_records=3)\nfor _ in range(5): decode()\nread()")
    assert [record["number"] for record in records] == [2, 3, 4]
    assert states == [[3, 5, 2, 0]]


def test_lengths_are_copied_where_that_is_asked_for(cuda_12_0):
    """The lengths are 100."""
    records, _, ran = profiled(cuda_12_0, "start(1); decode(); read()", copied=100)
    (copy,) = ran.of("cuMemcpyAsync")
    names = ran.names()
    assert names.index("cuMemcpyAsync") < names.index("cuLaunchKernelEx"), "as the call reads them"
    (record,) = records
    assert copy["bytes"] == 4 * record["batch"]
    assert record["flags"] & COUNTED
    assert record["tokens"] == 100 * record["batch"]
    (by_capacity,), _, _ = profiled(cuda_12_0, "start(); decode(); read()")
    assert not by_capacity["flags"] & COUNTED
    assert by_capacity["tokens"] > record["tokens"]
    a_token = (by_capacity["bytes"] - record["bytes"]) / (by_capacity["tokens"] - record["tokens"])
    assert a_token == 2 * 576 * record["h_kv"]


def test_more_lengths_than_there_is_room_for_count_the_capacity(cuda_12_0):
    (record,), _, ran = profiled(cuda_12_0, "start(1, max_lengths=1); decode(); read()", copied=100)
    assert record["batch"] > 1
    assert not record["flags"] & COUNTED
    assert record["device_time"] == KNOWN
    assert not ran.of("cuMemcpyAsync")


def device_times(driver, code):
    """Of the calls that the code makes, after a profile was started."""
    read_all = """
records = ffi.new("flashmla_call_record[2000]")
records[0].struct_size = ffi.sizeof("flashmla_call_record")
state = ffi.new("flashmla_profile_state *", {"struct_size": ffi.sizeof("flashmla_profile_state")})
assert lib.flashmla_profile_read(records, 2000, state) == 0
tell("times", [r.device_time for r in records[0 : state.count]])
"""
    _, _, ran = profiled(driver, f"start()\n{code}\n{read_all}")
    (times,) = [line[1] for line in ran.told if line[0] == "times"]
    assert set(times) <= {KNOWN, SKIPPED}
    return times


def test_beyond_the_first_calls_a_sixteenth_of_them_are_timed(cuda_12_0):
    """Whatever the order of operations is: here two take turns."""
    times = device_times(cuda_12_0, "for _ in range(1000):\n    decode()\n    plan()")
    assert times[:256] == [KNOWN] * 256
    for which in (0, 1):
        rest = times[256 + which :: 2]
        assert 0.05 < rest.count(KNOWN) / len(rest) < 0.09


@pytest.mark.parametrize("other", ["plan()", "decode(STEP.but(s_q=3))"])
def test_the_first_calls_of_a_shape_are_timed_whenever_they_come(cuda_12_0, other):
    times = device_times(cuda_12_0, f"for _ in range(300): decode()\nfor _ in range(40): {other}")
    assert times[300:308] == [KNOWN] * 8
    assert times[308:].count(KNOWN) < 16


@pytest.mark.parametrize("stream", [0, 7])
@pytest.mark.parametrize("lengths", [0, 1])
def test_what_a_call_asks_the_driver_for(cuda_12_0, lengths, stream):
    """More than without a profile, in a long one, whose events are taken again."""
    code = f"""
prepared = prepare_decode(stream={stream})
run_decode(prepared)
driver.cuInit(9)
run_decode(prepared)
driver.cuInit(9)
start({lengths}, max_pending=4)
for _ in range(300):
    run_decode(prepared)
for _ in range(100):
    driver.cuInit(9)
    run_decode(prepared)
driver.cuInit(9)
"""
    _, _, ran = profiled(cuda_12_0, code, copied=100)
    off, _, *on = [Counter(names.split()) for names in " ".join(ran.names()).split("cuInit")[-103:-1]]
    found = Counter(tuple(sorted((call - off).items())) for call in on)
    skipped = Counter({"cuStreamIsCapturing": int(stream != 0)})
    timed = Counter(["cuCtxGetCurrent", "cuCtxGetDevice", "cuStreamIsCapturing"])
    timed += Counter({"cuEventRecord": 2, "cuEventQuery": 1, "cuThreadExchangeStreamCaptureMode": 2})
    timed["cuMemcpyAsync"] = lengths
    assert set(found) == {tuple(sorted((+calls).items())) for calls in (skipped, timed)}
    assert found[tuple(sorted((+timed).items()))] < 10


def test_captured_calls_beyond_the_first_are_told(cuda_12_0):
    """Where the caller has a context, without which a stream cannot be asked."""
    code = "import os\nenter(0)\nfor _ in range(300): decode(stream=7)\nos.putenv('STUB_CAPTURING', '1')\n"
    _, _, ran = profiled(cuda_12_0, "start(max_records=99)\n" + code + "for _ in range(99): decode(stream=7)\nread()")
    assert [line[1]["device_time"] for line in ran.told if line[0] == "record"] == [CAPTURED] * 99


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_event_that_fails_leaves_the_call_alone(cuda_12_0, after):
    """The device's own, the one before the launches, and the one behind them."""
    records, _, ran = profiled(cuda_12_0, f"start(); fail('cuEventRecord', 400, {after}); decode(); decode(); read()")
    assert [line[:3] for line in ran.told if line[0] == 0] == [[0, "", 0]] * 2
    assert len(ran.launches()) == 6
    assert records[0]["device_time"] == FAILED
    assert records[1]["device_time"] == KNOWN


@pytest.mark.parametrize("after", [0, 1, 2])
def test_events_that_cannot_be_made_leave_calls_alone(cuda_12_0, monkeypatch, after):
    """The device's own, and those of its first pair. Later calls do not take what was not made."""
    monkeypatch.setenv("MALLOC_PERTURB_", "255")  # memory is 0 before it is set, as if its pairs were idle
    code = f"start(); fail('cuEventCreate', 2, {after}); decode(); decode(); read()"
    records, _, ran = profiled(cuda_12_0, code)
    assert [record["device_time"] for record in records] == [FAILED] * 2
    assert len(ran.launches()) == 6
    assert not ran.of("cuEventRecord")


def test_a_call_that_fails_is_no_record_and_leaves_no_context(cuda_12_0):
    records, states, ran = profiled(cuda_12_0, "start(); fail('cuLaunchKernelEx', 2); decode(); decode(); read()")
    assert len(records) == 1
    assert [line[2] for line in ran.told if line[0] in (0, 301)] == [0, 0]
    assert states == [[1, 1, 0, 0]]


def test_what_a_call_that_fails_has_copied_is_told_of_no_call(cuda_12_0):
    code = "start(1); fail('cuLaunchKernelEx', 2); decode(); decode(); read()"
    (record,), _, ran = profiled(cuda_12_0, code, copied=100)
    assert len(ran.of("cuMemcpyAsync")) == 2
    assert record["tokens"] == 100 * record["batch"]


def test_a_prepared_call_is_a_record_too(cuda_12_0):
    records, _, _ = profiled(cuda_12_0, "start(); run_decode(prepare_decode()); read()")
    assert [bool(record["flags"] & PREPARED) for record in records] == [True]
    assert records[0]["device_ns"] == 250_000
    assert records[0]["bytes"] > 0


def test_limits_are_those_that_the_device_tells(cuda_12_0):
    code = """
limits = ffi.new("flashmla_device_limits *", {"struct_size": ffi.sizeof("flashmla_device_limits")})
tell(lib.flashmla_device_limits_of(0, limits), limits.bytes_per_second, limits.flop_per_second, limits.processors)
tell(lib.flashmla_device_limits_of(3, limits), last_error())
"""
    first, second = cuda_12_0.run(code).told
    assert first == [0, 2.619e9 * 2 * 5120 / 8, 1.83e9 * 132 * 4096, 132]
    assert second[0] == c_abi.constant("ERROR_DEVICE")


def test_the_log_tells_a_choice_once_with_its_reason(cuda_12_0, monkeypatch):
    code = """
import os, tempfile
with tempfile.TemporaryFile() as log:
    kept = os.dup(2)
    os.dup2(log.fileno(), 2)
    decode(); decode()
    os.dup2(kept, 2)
    log.seek(0)
    tell("log", log.read().decode())
"""
    monkeypatch.setenv("FLASHMLA_LOG", "1")
    lines = next(line[1] for line in cuda_12_0.run(code).told if line[0] == "log").splitlines()
    assert len(lines) == len(set(lines))
    (chosen,) = [line for line in lines if line.startswith("flashmla: dense_decode: kernel ") and "cluster 2" in line]
    assert "dense_decode_bf16_576_cluster2, the first of the table that does the call on sm_90" in chosen
    monkeypatch.setenv("FLASHMLA_LOG", "0")
    assert [line for line in cuda_12_0.run(code).told if line[0] == "log"] == [["log", ""]]
