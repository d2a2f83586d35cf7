"""The AMX row of the CPU backend on any machine, in a library whose tile instructions are those of amx/tiles.h.

Its properties run in processes of their own, behind fences as in test_reads_outside.py.
"""

from __future__ import annotations

import pytest

import amx_in_c
import operations
from test_reads_outside import run_fenced


@pytest.fixture(scope="module")
def library():
    return amx_in_c.library()


def run_suite(library, *arguments: str) -> None:
    suite = run_fenced(
        *("-m", "pytest", "-p", "no:cacheprovider", *arguments),
        HYPOTHESIS_PROFILE="find",
        FLASHMLA_LIBRARY=str(library),
        FLASHMLA_CPU_ISA="amx",
    )
    assert suite.returncode == 0, suite.stdout + suite.stderr
    assert "backend cpu: amx" in suite.stdout


def test_any_legal_call_is_the_oracle(library):
    run_suite(library, str(operations.FOLDER / "dense_decode" / "test_legal_calls.py"), "-k", "test_any_ and cpu")


def test_the_set_is_right_when_forced(library):
    run_suite(library, "tests/unit/test_cpu_isa.py", "-k", "amx or page_sizes")
