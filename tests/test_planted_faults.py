"""Tests of the tests: ten libraries, each with one planted fault (enum fm_fault), must fail the main property.

And each for its own reason: the case that was found must come right again when the one trait that the fault needs is
taken from it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from buffers import COMPACT
from cases import Case

ROOT = Path(__file__).parent.parent
PROPERTY = "tests/property/test_dense_decode.py::test_any_legal_call_is_the_oracle[cpu]"
# Runs cases one by one; a line each says whether the library gave what the oracle says.
JUDGE = """
import sys
import backends, calls
from buffers import Layout
from cases import Case, Layouts
from oracle import Shard
for line in sys.stdin:
    try:
        calls.check(eval(line), backends.cpu())
        print("right")
    except AssertionError:
        print("wrong")
"""


def whole_pages(case: Case) -> Case:
    """A shard, too, may end within a page."""
    case = case.but(shard=None, global_seqlens=())
    return case.but(lengths=tuple(-(-n // case.page_size) * case.page_size if n > 0 else n for n in case.lengths))


def unpadded(case: Case) -> Case:
    return case.but(h_kv=1, layouts=replace(case.layouts, kv_cache=COMPACT))


@dataclass(frozen=True)
class Fault:
    """A planted fault: its number in internal.h, what the suite says of it, and how a case loses what it needs."""

    number: int
    heal: Callable[[Case], Case]
    message: str = "lse|out"


FAULTS = {
    "page end off by one": Fault(1, whole_pages),
    "causal bound off by one": Fault(2, lambda case: case.but(causal=False)),
    "head map": Fault(3, lambda case: case.but(h_kv=1)),
    "stale last page": Fault(4, lambda case: case.but(lengths=tuple(min(n, case.page_size) for n in case.lengths))),
    "NaN in V let through": Fault(5, whole_pages, "out: NaN position"),
    "split weight": Fault(6, lambda case: case.but(plan="fresh", num_splits=1, batch_invariant=False)),
    "lse base": Fault(7, lambda case: case.but(route="c", given=()), "lse"),
    "empty row": Fault(
        8,
        lambda case: case.but(
            causal=False, shard=None, global_seqlens=(), lengths=tuple(max(n, 1) for n in case.lengths)
        ),
        r"(lse|out): .* position",
    ),
    "stride ignored": Fault(9, unpadded),
    "length not clamped": Fault(10, lambda case: case.but(lengths=tuple(min(n, case.capacity) for n in case.lengths))),
}


def run(command: list[str], library: Path, **more) -> subprocess.CompletedProcess:
    """A Python process of this interpreter that uses the library."""
    paths = [str(ROOT / "tests"), str(ROOT / "bindings" / "python")]
    environment = os.environ | {
        "FLASHMLA_LIBRARY": str(library),
        "HYPOTHESIS_PROFILE": "find",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, **more
    )


def faulty_library(number: int) -> Path:
    """The library with one fault: its CPU backend alone differs from the product's."""
    out = ROOT / "build" / "faults" / str(number)
    command = [sys.executable, "build.py", "lib", "--cpu-only", "--fault", str(number), "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return out / "libflashmla.so.1"


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_fault_is_caught_for_its_own_reason(fault):
    library = faulty_library(fault.number)
    suite = run(["-m", "pytest", PROPERTY, "-x", "-q", "--tb=short", "-p", "no:cacheprovider"], library)
    assert suite.returncode == 1, f"the suite did not find it:\n{suite.stdout}{suite.stderr}"
    assert re.search(rf"AssertionError: ({fault.message})", suite.stdout), suite.stdout

    found = re.search(r"failing case: (Case\(.*\))", suite.stdout)
    assert found, suite.stdout
    case = eval(found[1], {name: vars(sys.modules["cases"])[name] for name in ("Case", "Layouts", "Layout", "Shard")})
    judged = run(["-c", JUDGE], library, input=f"{case!r}\n{fault.heal(case)!r}\n")
    assert judged.stdout.split() == ["wrong", "right"], f"{case!r}\n{judged.stdout}{judged.stderr}"
