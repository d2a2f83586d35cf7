"""What tests of the benchmarks share."""

import importlib
import pathlib

import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Imports a program of benchmarks/ that needs no GPU."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module
