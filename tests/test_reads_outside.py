"""No instruction set of the CPU backend reads outside its tensors: the main properties again, behind fences.

Guard bands show writes. A read shows only if it kills, so here a page without access follows every tensor, and the
properties run in processes of their own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import isas
import operations

ROOT = Path(__file__).parent.parent
TESTS = {name: f"tests/ops/{name}/test_legal_calls.py" for name in operations.having("test_legal_calls")}


def run_fenced(*command: str, **environment: str) -> subprocess.CompletedProcess:
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("tests", "bindings/python"))
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | {"FLASHMLA_TEST_FENCE": "1", "PYTHONPATH": paths} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("operation", TESTS)
@pytest.mark.parametrize("isa", isas.NAMES)
def test_any_legal_call_stays_inside_its_tensors(isa, operation):
    # A set that the machine lacks falls back to the best one it has.
    suite = run_fenced(
        *("-m", "pytest", TESTS[operation], "-q", "-k", "test_any_ and cpu", "-p", "no:cacheprovider"),
        HYPOTHESIS_PROFILE="find",
        FLASHMLA_CPU_ISA=isa,
    )
    assert suite.returncode == 0, suite.stdout + suite.stderr


def test_the_fence_kills():
    read_one_byte_more = (
        "import ctypes, backends, buffers\n"
        "tensor = buffers.Guarded(backends.NumpyAdapter(), (3, 5), 'int32')\n"
        "ctypes.string_at(tensor.tensor.ctypes.data + tensor.nbytes - 1, 1)\n"
        "print('inside', flush=True)\n"
        "ctypes.string_at(tensor.tensor.ctypes.data + tensor.nbytes, 1)\n"
    )
    died = run_fenced("-c", read_one_byte_more)
    assert died.stdout == "inside\n"
    assert died.returncode == -signal.SIGSEGV
