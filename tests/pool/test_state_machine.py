"""Random calls against a dictionary model: no page is lost, aliased or leaked, and every token's row stays what was
written. The profile `nightly` makes two million calls."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis.stateful import run_state_machine_as_test

import properties
from pool.machine import PoolMachine
from pool.memory import TorchMemory
from pool.walk import Walk


def settings(part: float):
    nightly = hypothesis.settings.get_current_profile_name() == "nightly"
    return properties.share(1.0, stateful_step_count=200) if nightly else properties.share(part, stateful_step_count=60)


@pytest.mark.parametrize("layout", ["listed", "stacked", "interleaved"])
def test_long_walks(layout):
    """Of 1000 steps each, under pressure."""
    for seed in range(round(hypothesis.settings().max_examples / 100) + 1):
        Walk(seed, layout=layout).run(1000)


def test_random_calls():
    run_state_machine_as_test(PoolMachine, settings=settings(0.3))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_random_calls_on_torch(device, request):
    pytest.importorskip("torch")
    if device == "cuda":
        request.getfixturevalue("gpu")

    class TorchMachine(PoolMachine):
        memory = TorchMemory(device)

    run_state_machine_as_test(TorchMachine, settings=settings(0.1))
