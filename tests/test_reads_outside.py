"""No instruction set of the CPU backend reads outside its tensors: the main property again, behind fences.

Guard bands show writes. A read shows only if it kills, so here a page without access follows every tensor, and the
property runs in a process of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROPERTY = "tests/ops/dense_decode/test_legal_calls.py::test_any_legal_call_is_the_oracle[cpu]"


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


@pytest.mark.parametrize("isa", ["avx512", "avx2", "portable"])
def test_any_legal_call_stays_inside_its_tensors(isa):
    # A set that the machine lacks falls back to the best one it has.
    suite = run_fenced(
        *("-m", "pytest", PROPERTY, "-q", "-p", "no:cacheprovider"), HYPOTHESIS_PROFILE="find", FLASHMLA_CPU_ISA=isa
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
