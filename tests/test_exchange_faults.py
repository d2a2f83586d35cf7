"""Tests of the tests of the binding's fast path: a library whose part in it has a fault must fail the test named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from planted_faults import Edit, Fault, faulty_library

ROOT = Path(__file__).parent.parent
CALL, OBJECTS = (f"libflashmla/src/core/{name}.c" for name in ("exchange", "exchange_objects"))
CALLS = "tests/unit/test_bindings_exchange.py"
ODD = "tests/unit/test_bindings_odd_tensors.py"
TABLES = "tests/unit/test_bindings_exchange_table.py"
PREPARED = "tests/unit/test_bindings_prepared.py"
TRACING = "tests/unit/test_bindings_tracing.py"


def fault(name: str, source: str, before: str, after: str, test: str, *more: Edit) -> Fault:
    return Fault(f"exchange {name}", (Edit(source, before, after), *more), lambda case: case, test)


FAULTS = [
    fault(
        "attribute",
        OBJECTS,
        "  return found == value ? FLASHMLA_OK : FM_UNUSUAL;",
        "  return value == NULL ? FM_UNUSUAL : FLASHMLA_OK;",
        f"{ODD}::test_odd_tensors_fare_as_they_do_the_long_way[q-gradient]",
    ),
    fault(
        "conditions on tensors",
        OBJECTS,
        "if (c->hold & 1U << i) continue;",
        "continue;",
        f"{TRACING}::test_a_tensor_without_plain_memory_is_named[negative-q]",
    ),
    fault(
        "conditions on a call",
        OBJECTS,
        "if (status == FM_UNUSUAL && !condition->of_tensors) status = check_condition(condition, NULL);",
        "if (status == FM_UNUSUAL && !condition->of_tensors) status = FLASHMLA_OK;",
        f"{TRACING}::test_jit_trace[given]",
    ),
    fault(
        "conditions that need not hold",
        OBJECTS,
        "if (status == FLASHMLA_OK) c->hold |= 1U << i;",
        "if (status == FLASHMLA_OK || condition->of_tensors) c->hold |= 1U << i;",
        f"{TRACING}::test_what_requires_a_gradient[leaf-given]",
    ),
    fault(
        "read only",
        OBJECTS,
        "(written && managed->flags & DLPACK_FLAG_BITMASK_READ_ONLY)",
        "(written && managed->flags & DLPACK_FLAG_BITMASK_READ_ONLY & 0)",
        "tests/unit/test_bindings_tensors.py::test_read_only_arrays_are_inputs_but_no_outputs[float32]",
    ),
    fault(
        "stale tensors",
        CALL,
        "  status = fm_take_objects(c);\n  if (status) return status;\n  *(void **)fm_param_of",
        "  *(void **)fm_param_of",
        f"{TABLES}::test_tensors_that_change_during_an_allocation_are_read_again",
    ),
    fault(
        "leak",
        CALL,
        "if (status || !how->keep_scratch)",
        "if (status)",
        f"{TABLES}::test_scratch_comes_from_the_table_and_goes_back",
    ),
    fault(
        "lock",
        CALL,
        "void *const lock = fm_host.unlock();",
        "",
        # Of NumPy: for PyTorch the conditions give the lock up, too.
        f"{CALLS}::test_other_threads_run_while_the_cpu_computes[numpy]",
        Edit(CALL, "fm_host.lock(lock);", ""),
    ),
    fault(
        "strides",
        OBJECTS,
        "if (a->shape[axis] > 1 && a->strides[axis] !=",
        "if (a->shape[axis] < 1 && a->strides[axis] !=",
        f"{PREPARED}::test_a_tensor_of_another_kind_is_refused[torch-strides]",
    ),
    fault(
        "gaps in scratch",
        OBJECTS,
        "if (tensor->shape[axis] > 1 && (uint64_t)tensor->strides[axis] != count) return FM_UNUSUAL;",
        "",
        "tests/unit/test_bindings_calls.py::test_scratch_must_be_contiguous",
    ),
    fault(
        "device of scratch",
        OBJECTS,
        "  if (c->model && !same_device(tensor->device, c->model->device)) return FM_UNUSUAL;",
        "",
        f"{TABLES}::test_scratch_is_looked_at_as_it_is_the_long_way",
    ),
]


@pytest.mark.parametrize("planted", FAULTS, ids=lambda planted: planted.name)
def test_fault_is_caught(planted):
    pytest.importorskip("torch")
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "bindings" / "python")])
    environment = os.environ | {"FLASHMLA_LIBRARY": str(faulty_library(planted)), "PYTHONPATH": paths}
    command = [sys.executable, "-m", "pytest", planted.test, "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode in {1, -6, -11}, f"the test did not find it:\n{done.stdout}{done.stderr}"
    assert done.returncode != 1 or "1 failed" in done.stdout, done.stdout
