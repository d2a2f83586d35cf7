"""What users read in the docstrings: each public function tells what it raises and has an example, which is run."""

import doctest
import inspect
import os

import pytest

import flashmla
import flashmla.compat

FUNCTIONS = [getattr(flashmla, name) for name in flashmla.__all__ if inspect.isroutine(getattr(flashmla, name))]
OF_COMPAT = [flashmla.compat.install, flashmla.compat.flash_mla.flash_mla_with_kvcache]
OF_COMPAT += [flashmla.compat.flash_mla.get_mla_metadata]
PUBLIC = [*FUNCTIONS, *OF_COMPAT, flashmla.PagedKVCache, flashmla.Plan, flashmla.Prepared]


def names():
    """The names that the examples use: those of the package's own docstring."""
    found = {"flashmla": flashmla}
    parser = doctest.DocTestParser()
    for example in parser.get_examples(flashmla.__doc__):
        exec(example.source, found)
    return found


@pytest.fixture
def used(monkeypatch):
    import sys

    yield names() | {"torch": pytest.importorskip("torch"), "os": os}
    for name in [name for name in sys.modules if name.partition(".")[0] == "flash_mla"]:
        monkeypatch.delitem(sys.modules, name)


def run(thing, used):
    tests = [
        test for test in doctest.DocTestFinder(recurse=False).find(thing, thing.__name__, globs=used) if test.examples
    ]
    runner = doctest.DocTestRunner(verbose=False)
    for test in tests:
        report = []
        runner.run(test, out=report.append)
        assert not runner.failures, "".join(report)
    return len(tests)


def test_the_package(used):
    del used["torch"]
    assert run(flashmla, {}) == 1


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda thing: thing.__name__)
def test_examples(thing, used):
    assert run(thing, used) == 1, "an example is missing"


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda thing: thing.__name__)
def test_what_is_raised_is_told(thing):
    assert "raise" in thing.__doc__.lower()


@pytest.mark.parametrize("thing", FUNCTIONS, ids=lambda thing: thing.__name__)
def test_every_argument_is_told(thing):
    """In the function's own docstring, or in that of the one that it refers to."""
    told = thing.__doc__ + "".join(
        one.__doc__ for one in (flashmla.dense_decode, flashmla.plan_decode, flashmla.sparse_decode)
    )
    missing = [name for name in inspect.signature(thing).parameters if name not in told]
    assert not missing
