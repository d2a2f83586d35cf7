"""Tests of the tests: a library with a fault planted in a copy of its sources must fail the main property of its
operation, or the test that is there for what the fault breaks.

And each for its own reason: the case that was found must come right again when the one trait that the fault needs is
taken from it. The faults are in ops/<operation>/faults.py.
"""

from __future__ import annotations

import base64
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

import operations
from dsl_kernels.variants import VARIANTS
from gpu import run_faults
from planted_faults import edited_copies, faulty_library

ROOT = Path(__file__).parent.parent
FAULTS = [(module, fault) for module in operations.modules("faults").values() for fault in module.FAULTS]
GPU_FAULTS = [fault for module in operations.modules("gpu_faults").values() for fault in module.GPU_FAULTS]
# Faults show in NumPy's arrays too; importing the other frameworks would take most of the time.
LEAN = "import sys; sys.modules['torch'] = sys.modules['jax'] = None\n"
PYTEST = LEAN + "import pytest; sys.exit(pytest.main(sys.argv[1:]))"
# Runs cases one by one, pickled a line each; a line each says whether the check passed.
JUDGE = """
import base64, pickle
import backends
from MODULE import CHECK as check
for line in sys.stdin:
    try:
        check(pickle.loads(base64.b64decode(line)), backends.cpu())
        print("right")
    except AssertionError:
        print("wrong")
"""


def run(command: list[str], library: Path, **more) -> subprocess.CompletedProcess:
    """A Python process of this interpreter that uses the library."""
    paths = [str(ROOT / "tests"), str(ROOT / "bindings" / "python")]
    environment = os.environ | {
        "FLASHMLA_LIBRARY": str(library),
        "HYPOTHESIS_PROFILE": "search",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, **more
    )


def failing_case(output: str, names: dict):
    """The case that a property tells of when it fails, written with these names."""
    found = re.search(r"failing case: (\w+\(.*\))", output)
    assert found, output
    return eval(found[1], names)


@pytest.mark.parametrize(("module", "fault"), FAULTS, ids=lambda value: getattr(value, "name", ""))
def test_fault_is_caught_for_its_own_reason(module, fault):
    library = faulty_library(fault)
    suite = run(["-c", PYTEST, fault.test, "-x", "-q", "--tb=short", "-p", "no:cacheprovider"], library)
    assert suite.returncode == 1, f"the suite did not find it:\n{suite.stdout}{suite.stderr}"
    assert re.search(rf"AssertionError: ({fault.message})", suite.stdout), suite.stdout

    case = fault.case or failing_case(suite.stdout, vars(module).copy())
    path, _, check = fault.check.rpartition(".")
    judge = LEAN + JUDGE.replace("MODULE", path).replace("CHECK", check)
    lines = [base64.b64encode(pickle.dumps(one)).decode() for one in (case, fault.heal(case))]
    judged = run(["-c", judge], library, input="\n".join(lines) + "\n")
    assert judged.stdout.split() == ["wrong", "right"], f"{case!r}\n{judged.stdout}{judged.stderr}"


@pytest.mark.parametrize("fault", GPU_FAULTS, ids=lambda fault: fault.name)
def test_a_fault_of_a_kernel_can_be_planted(fault, tmp_path):
    """Its texts stand once in the sources, and what they become is Python. gpu/run_faults.py shows that it is found."""
    for copy in edited_copies(fault.edits, tmp_path).values():
        compile(copy.read_text(), copy.name, "exec")
    assert set(fault.kernels) <= {variant.name for variant in VARIANTS}


@pytest.mark.parametrize("kind", run_faults.CASES)
def test_the_calls_that_find_faults_of_kernels_are_legal_and_right(backend, kind):
    if backend.name != "cpu":
        pytest.skip("gpu/run_faults.py runs them, in processes of their own")
    run_faults.check_all(backend, kind)


def test_names_are_of_one_fault_each():
    """They name the folders of the faulty libraries."""
    names = [fault.name for fault in (*(fault for _, fault in FAULTS), *GPU_FAULTS)]
    assert len(names) == len(set(names))
