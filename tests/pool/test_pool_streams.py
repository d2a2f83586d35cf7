"""Copies, events and streams of a pool on the stub driver, whose streams do their work as late as they may: what lacks
a wait would find memory as it was before."""

from __future__ import annotations

import hypothesis
import pytest

NOT_READY = 600
STEPS = {"nightly": 100_000, "ci": 4000}.get(hypothesis.settings.get_current_profile_name(), 800)


def walks(steps: int, layout: str = "listed") -> str:
    """Code that makes random calls, for a process with the stub driver."""
    return f"""
from pool.stub_memory import StubMemory
from pool.walk import Walk

for seed in range({steps} // 400):
    Walk(seed, StubMemory(), layout="{layout}").run(400)
"""


@pytest.mark.parametrize("layout", ["listed", "interleaved"])
@pytest.mark.parametrize("lazy", [0, 1, 2, 3], ids=["at once", "swaps late", "work late", "all late"])
def test_random_calls_with_streams_that_are_late(driver, lazy, layout, uploads):
    ran = driver.run(walks(STEPS, layout), lazy=lazy, **uploads)
    assert ran.of("cuMemcpyAsync")
    asked = [] if uploads["pageable"] == 0 else ran.of("cuPointerGetAttribute")  # which is refused
    assert all(call["result"] in {0, NOT_READY} for call in ran.calls if call not in asked)


def test_a_copy_of_what_is_being_swapped_in_waits_for_it(driver):
    """A held block that just came back is copied before it is written."""
    code = """
from pool.model import Model
from pool.stub_memory import StubMemory
from pool.subject import Subject
from pool.walk import SIZES

one = Subject(Model(**SIZES), memory=StubMemory())
name = one.allocate([])
one.append([name], [[1, 2, 3, 4]])
one.call("swap_out", name)
one.poison()
one.call("swap_in", name)
one.hold(one.model.sequences[name].blocks[-1])
one.append([name], [[5]])
one.check()
"""
    driver.run(code, lazy=1)


def test_the_callers_stream_waits_for_a_swap_where_it_takes_its_blocks_alone(driver):
    """Swaps are under way until something waits for them: steps of others, and their work, do not."""
    code = """
import numpy, flashmla
from pool.device_array import STREAM, DeviceArray

pages, host = DeviceArray(numpy.ones((8, 4, 1, 8), "float32")), numpy.zeros((8, 4 * 8 * 4), "uint8")
cache = flashmla.PagedKVCache([pages], max_seqs=4, max_seq_len=16, host_pool=host)
large, other, third = [cache.allocate()[0] for _ in range(3)]
cache.append([large, other], [12, 3])

def now(what):
    waits = [line for line in open(__import__("os").environ["STUB_LOG"]) if "cuStreamWaitEvent" in line]
    tell(what, int(host.any(axis=1).sum()), sum(json.loads(line)["stream"] == STREAM for line in waits))

import json
cache.swap_out(large)
for _ in range(8):
    cache.append([other])
now("steps in free blocks")
cache.append([third], [12])
now("blocks that it reads")
cache.free(third)
cache.swap_in(large)
for _ in range(4):
    cache.append([other])
    cache.truncate(other, 11)
now("steps beside it coming back")
cache.append([large], [0])
now("what came back")
"""
    ran = driver.run(code, lazy=1)
    assert ran.told == [
        ["steps in free blocks", 0, 0],
        ["blocks that it reads", 3, 1],
        ["steps beside it coming back", 3, 1],
        ["what came back", 3, 2],
    ]
