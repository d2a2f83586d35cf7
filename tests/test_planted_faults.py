"""Tests of the tests: libraries with one planted fault each (enum fm_fault) must fail the main property, or the test
that is there for what the fault breaks.

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

from buffers import COMPACT, Layout
from ops.dense_decode.case import Case, Layouts
from ops.dense_decode.oracle import Shard
from ops.dense_decode.relations import INVARIANT, MIXED, STEP
from ops.merge_states.calls import MergeCase

ROOT = Path(__file__).parent.parent
DECODE = "tests/ops/dense_decode/test_legal_calls.py::test_any_legal_call_is_the_oracle[cpu]"
MERGE = "tests/ops/merge_states/test_legal_calls.py::test_any_parts_give_what_the_oracle_says[cpu]"
ALONE = "tests/ops/dense_decode/test_batch_invariance.py::test_every_request_alone_and_among_many[cpu-bfloat16-16]"
VARLEN = "tests/ops/dense_decode/test_varlen.py::test_more_queries_than_max_seqlen_q_are_not_written[cpu]"
DIGITS = "tests/ops/dense_decode/test_options.py::test_float32_out_has_more_digits_than_the_dtype_of_q[cpu-bfloat16]"
# Faults show in NumPy's arrays too; importing the other frameworks would take most of the time.
LEAN = "import sys; sys.modules['torch'] = sys.modules['jax'] = None\n"
PYTEST = LEAN + "import pytest; sys.exit(pytest.main(sys.argv[1:]))"
# Runs cases one by one; a line each says whether the check passed.
JUDGE = """
import backends
from ops.dense_decode import calls, relations
from ops.merge_states import calls as merging
from buffers import Layout
from ops.dense_decode.case import Case, Layouts
from ops.merge_states.calls import MergeCase
from ops.dense_decode.oracle import Shard
for line in sys.stdin:
    try:
        CHECK(eval(line), backends.cpu())
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


def same_count(case: Case) -> Case:
    """Every request has max_seqlen_q query tokens."""
    offsets = tuple(case.s_q * i for i in range(case.batch + 1))
    return case.but(cu_seqlens_q=offsets, total_q=offsets[-1])


def capped(case: Case, tokens: int) -> Case:
    """No request is longer than that."""
    return case.but(lengths=tuple(min(n, tokens) for n in case.lengths))


@dataclass(frozen=True)
class Fault:
    """A planted fault: its number in internal.h, what the suite says of it, and how a case loses what it needs."""

    number: int
    heal: Callable[[Case], Case] | Callable[[MergeCase], MergeCase]
    message: str = "lse|out"
    test: str = DECODE  # that fails
    check: str = "calls.check"  # what that test does with a case
    case: Case | None = None  # of the test; None: it draws them, and tells which one failed


FAULTS = {
    "page end off by one": Fault(1, whole_pages),
    "causal bound off by one": Fault(2, lambda case: case.but(causal=False)),
    "head map": Fault(3, lambda case: case.but(h_kv=1)),
    "stale last page": Fault(4, lambda case: capped(case, case.page_size)),
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
    "length not clamped": Fault(10, lambda case: capped(case, case.capacity)),
    "causal bound by max_seqlen_q": Fault(11, same_count),
    "max_seqlen_q is no limit": Fault(
        12, lambda case: case.but(s_q=max(case.s_q, case.total_q)), test=VARLEN, case=MIXED.but(s_q=2)
    ),
    "rank": Fault(13, lambda case: case.but(shard=case.shard._replace(rank=0))),
    "interleave": Fault(14, lambda case: case.but(shard=case.shard._replace(interleave=1))),
    "causal bound of a shard": Fault(15, lambda case: case.but(causal=False)),
    "a state's +inf": Fault(16, lambda case: case.but(empty=0.0, all_empty=0.0), test=MERGE, check="merging.check"),
    "base of the states": Fault(17, lambda case: case.but(lse_base2=False), test=MERGE, check="merging.check"),
    "lse of an empty row": Fault(18, lambda case: case.but(empty_lse_minus=False), r"lse: .inf position"),
    "lse of an empty state": Fault(
        18, lambda case: case.but(empty_lse_minus=False), r"lse: .inf position", test=MERGE, check="merging.check"
    ),
    # A request of 8 units of 64 tokens is one piece.
    "size of a piece": Fault(
        19,
        lambda case: capped(case, 8 * 64),
        "results differ in some bit",
        test=ALONE,
        check="relations.check_alone",
        case=INVARIANT,
    ),
    "float32 out": Fault(
        20,
        lambda case: capped(case, 1),
        "out: 0 elements have more digits",
        test=DIGITS,
        check="relations.check_digits",
        case=STEP.but(out_dtype="float32"),
    ),
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
    command = [sys.executable, "build.py", "lib", "--cpu-only", "--debug", "--fault", str(number), "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return out / "libflashmla.so.1"


def failing_case(output: str) -> Case | MergeCase:
    """The case that a property tells of when it fails."""
    found = re.search(r"failing case: ((?:Merge)?Case\(.*\))", output)
    assert found, output
    return eval(found[1], {kind.__name__: kind for kind in (Case, Layouts, Layout, MergeCase, Shard)})


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_fault_is_caught_for_its_own_reason(fault):
    library = faulty_library(fault.number)
    suite = run(["-c", PYTEST, fault.test, "-x", "-q", "--tb=short", "-p", "no:cacheprovider"], library)
    assert suite.returncode == 1, f"the suite did not find it:\n{suite.stdout}{suite.stderr}"
    assert re.search(rf"AssertionError: ({fault.message})", suite.stdout), suite.stdout

    case = fault.case or failing_case(suite.stdout)
    judge = LEAN + JUDGE.replace("CHECK", fault.check)
    judged = run(["-c", judge], library, input=f"{case!r}\n{fault.heal(case)!r}\n")
    assert judged.stdout.split() == ["wrong", "right"], f"{case!r}\n{judged.stdout}{judged.stderr}"
