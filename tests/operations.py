"""The operations that have tests: a folder each in ops/, which is found by itself and holds modules of known names.

calls.py            makes calls, runs them, checks their results
oracle.py           the mathematics in float64; imports NumPy only
bounds.py           BY_DTYPE: how far a result may be from the oracle
strategies.py       draws legal calls
arguments.txt       the library's table of its tensors, as recorded (test_shared_facts.py); needed
invalid.py          RULES that a legal call can be made to break; legal_call() draws one (test_invalid_calls.py)
faults.py           FAULTS to plant in copies of the sources (test_planted_faults.py)
gpu_faults.py       GPU_FAULTS to plant in copies of the kernels (gpu/build_faults.py)
shape_only.py       calls on tensors without memory, by convention; typed_calls.py: what mypy checks
host.py             names for code that runs with the stub driver (stub_driver/host.py)
sanitizer_cases.py  launches of every kernel of the operation (gpu/sanitizer_cases.py); needed where it has some
hostile.py          calls for values on the device that change or make no sense (gpu/changing_values.py)
test_legal_calls.py its main property is test_any_...(backend), which test_reads_outside.py runs too
c/                  C tests: core/ with a stand-in for the backends, library/ with the whole library (c/test_c.py)
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parent / "ops"
NAMES = sorted(found.parent.name for found in FOLDER.glob("*/__init__.py"))


def having(module: str) -> list[str]:
    """The operations that have this module."""
    return [name for name in NAMES if (FOLDER / name / f"{module}.py").exists()]


def modules(name: str) -> dict[str, ModuleType]:
    """This module of every operation that has it."""
    return {operation: importlib.import_module(f"ops.{operation}.{name}") for operation in having(name)}
