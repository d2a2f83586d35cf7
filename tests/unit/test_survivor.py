"""The example of a server that survives failures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import flashmla
from flashmla import _on_error

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "python"
sys.path.append(str(EXAMPLES))
import survivor  # noqa: E402


@pytest.fixture(autouse=True)
def restored():
    _on_error._found.clear()
    yield
    flashmla.on_error("raise")
    _on_error._found.clear()


def served(failures) -> tuple[list[list[int]], int]:
    """The tokens of all requests, and how often the server began again."""
    requests = [survivor.Request([7 * i + 1] * (40 + 30 * i), 10 + i) for i in range(4)]
    restarts = survivor.serve(requests, failures)
    assert all(request.done for request in requests)
    return [request.tokens for request in requests], restarts


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_tokens_are_those_of_a_machine_that_does_not_fail():
    expected, none = served({})
    flashmla.on_error(survivor.survive)
    found, saved = served({3: 301, 6: 200})
    again, restarts = served({3: 301, 6: survivor.CONTEXT_LOST, 8: survivor.CONTEXT_LOST})
    assert expected == found == again
    assert (none, saved, restarts) == (0, 0, 2)
    assert [(one.status, one.count) for one in flashmla.fallbacks()] == [(200, 1), (301, 2)]


def test_without_a_policy_the_failure_is_met_by_a_restart():
    expected, _ = served({})
    assert served({3: 301}) == (expected, 1)


@pytest.mark.parametrize(("arguments", "restarts"), [([], 0), (["--lost"], 1)])
def test_the_report(arguments, restarts, capsys):
    assert survivor.main(arguments) == 0
    said = capsys.readouterr().out
    assert "requests finished  4 of 4, 46 tokens" in said
    assert f"engine restarts    {restarts}" in said
    assert "saved on the CPU   1 of dense_decode, status 301: dense_decode fails on request" in said
    assert 'flashmla_errors_total{operation="dense_decode",status="301",reason="driver"}' in said


def test_the_status_is_that_of_the_header():
    from flashmla._cdef import ffi

    assert ffi.integer_const("FLASHMLA_ERROR_CONTEXT_LOST") == survivor.CONTEXT_LOST
