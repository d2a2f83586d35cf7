"""Random calls against a dictionary model: no page is lost, aliased or leaked, and every token's row stays what was
written. The profile `nightly` makes two million calls."""

from __future__ import annotations

import hypothesis
from hypothesis.stateful import run_state_machine_as_test

import properties
from pool.machine import PoolMachine

STEPS = {"nightly": 200}


def test_random_calls():
    profile = hypothesis.settings.get_current_profile_name()
    settings = properties.share(0.5 if profile != "nightly" else 1.0, stateful_step_count=STEPS.get(profile, 60))
    run_state_machine_as_test(PoolMachine, settings=settings)
