"""Copies, events and streams of a pool on the stub driver, whose streams do their work as late as they may: what lacks a
wait would find memory as it was before."""

from __future__ import annotations

import hypothesis
import pytest

PROFILE = hypothesis.settings.get_current_profile_name()
EXAMPLES = {"nightly": 1000, "ci": 60}.get(PROFILE, 12)
MACHINE = f"""
import hypothesis
from hypothesis.stateful import run_state_machine_as_test
from pool.machine import PoolMachine
from pool.stub_memory import StubMemory

class Machine(PoolMachine):
    memory = StubMemory()

run_state_machine_as_test(Machine, settings=hypothesis.settings(max_examples={EXAMPLES}, stateful_step_count=60,
    deadline=None, derandomize=True, database=None, suppress_health_check=list(hypothesis.HealthCheck)))
"""


@pytest.mark.parametrize("lazy", [0, 1, 2, 3], ids=["at once", "swaps late", "work late", "all late"])
def test_random_calls_with_streams_that_are_late(driver, lazy):
    ran = driver.run(MACHINE, lazy=lazy)
    assert ran.of("cuMemcpyAsync")
    assert all(call["result"] in {0, 600} for call in ran.calls)
