"""A library with a fault planted in a copy of its sources must fail the test that is there for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import build
from planted_faults import edited_copies
from tuning.faults import FAULTS

HERE = Path(__file__).parent


@pytest.mark.usefixtures("gpu_kernels")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_caught(fault):
    folder = build.BUILD / "faulty" / f"tuning-{fault.name.replace(' ', '-')}"
    library = build.build_library(cpu_only=False, debug=True, out=folder, edited=edited_copies(fault.edits, folder))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / fault.test)]
    environment = os.environ | {"FLASHMLA_LIBRARY": str(library), "HYPOTHESIS_PROFILE": "search"}
    ran = subprocess.run(command, cwd=build.ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "1 failed" in ran.stdout or " failed, " in ran.stdout, ran.stdout
