"""Profiles behind one another: what calls of an earlier one still have, and what the next one may take."""

from __future__ import annotations

import pytest

from stub_driver.profiles import COUNTED, KNOWN, LOST, SKIPPED, profiled


@pytest.mark.parametrize("again", [True, False])
def test_a_profile_with_more_events_has_room_for_their_lengths(cuda_12_0, again):
    """Copies stay in pinned memory, whatever an earlier profile made of it; where no more can be had there are none."""
    code = f"""
start(1, max_pending=1); decode(); lib.flashmla_profile_stop()
{"" if again else "fail('cuMemHostAlloc', 2)"}
start(1, max_pending=3)
for _ in range(3): decode()
read()
"""
    records, _, ran = profiled(cuda_12_0, code, copied=100)
    assert [record["device_time"] for record in records] == [KNOWN] * 3
    assert [bool(record["flags"] & COUNTED) for record in records] == [again] * 3
    copies = ran.of("cuMemcpyAsync")
    assert len(copies) == (4 if again else 1)
    made = [range(a["memory"], a["memory"] + a["bytes"]) for a in ran.of("cuMemHostAlloc") if a["result"] == 0]
    for copy in copies:
        assert any(copy["to"] in memory and copy["to"] + copy["bytes"] <= memory.stop for memory in made)


def events_of(ran, stream):
    """Those that calls recorded; the profile's own is the first on the stream of its first call."""
    return [call["event"] for call in ran.of("cuEventRecord") if call["stream"] == stream][1:]


def test_a_call_that_is_late_keeps_its_events(cuda_12_0):
    """It began under a profile, and launches while another one runs: it may not mark an event of that one's calls. They
    share the other pair; then that is free.
    """
    code = """
import os, threading
def late():
    driver.stub_hold(b"cuLaunchKernelEx")
    decode(stream=7)
start(max_pending=2)
thread = threading.Thread(target=late)
thread.start()
driver.stub_wait_until_held()
lib.flashmla_profile_stop()
start(max_pending=2)
decode(stream=9); decode(stream=9)
driver.stub_go()
thread.join()
read()
os.putenv("STUB_BUSY", "1")
decode(); decode()
os.unsetenv("STUB_BUSY")
read()
"""
    records, states, ran = profiled(cuda_12_0, code)
    assert [record["stream"] for record in records] == [9, 9, 0, 0]
    assert [record["device_time"] for record in records] == [SKIPPED, KNOWN, KNOWN, KNOWN]
    assert states == [[2, 2, 0, 0], [2, 4, 0, 0]]
    late, others = events_of(ran, 7), events_of(ran, 9)
    assert (len(late), len(others)) == (2, 4)
    assert not set(late) & set(others)


def test_lengths_that_are_on_their_way_stay_where_they_go(cuda_12_0):
    """Of an earlier profile: a copy still writes to the memory of its pair."""
    code = """
start(1, max_pending=2)
decode(stream=7)
lib.flashmla_profile_stop()
start(1, max_pending=2)
decode(stream=9); decode(stream=9)
driver.stub_finish()
decode(stream=9)
driver.stub_finish()
read()
"""
    records, _, ran = profiled(cuda_12_0, code, lazy=2, copied=100)
    assert [record["device_time"] for record in records] == [KNOWN, LOST, KNOWN]
    assert [record["tokens"] == 100 * record["batch"] for record in records] == [True, False, True]
    earlier, first, _ = ran.of("cuMemcpyAsync")
    assert (earlier["stream"], first["stream"]) == (7, 9)
    assert earlier["to"] != first["to"]


def test_other_events_of_an_earlier_profile_are_free(cuda_12_0):
    code = """
import os
start(max_pending=1); decode(); lib.flashmla_profile_stop()
start(max_pending=1); decode()
os.unsetenv("STUB_BUSY")
read()
"""
    records, _, _ = profiled(cuda_12_0, code, busy=1)
    assert [record["device_time"] for record in records] == [KNOWN]
