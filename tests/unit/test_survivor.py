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


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> str:
    if request.param == "cuda":
        request.getfixturevalue("gpu")  # which may skip
    return request.param


def served(failures, device) -> tuple[list[list[int]], int]:
    """The tokens of all requests, and how often the server began again."""
    requests = survivor.requests_of_the_demo()
    restarts = survivor.serve(requests, failures, device)
    assert all(request.done for request in requests)
    return [request.tokens for request in requests], restarts


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_tokens_are_those_of_a_machine_that_does_not_fail(device):
    expected, none = served({}, device)
    flashmla.on_error(survivor.survive)
    found, saved = served({3: 301, 6: 200}, device)
    again, restarts = served({3: 301, 6: survivor.CONTEXT_LOST, 8: survivor.CONTEXT_LOST}, device)
    assert expected == found == again
    assert (none, saved, restarts) == (0, 0, 2)
    assert [(one.status, one.count) for one in flashmla.fallbacks()] == [(200, 1), (301, 2)]


def test_tokens_depend_on_what_the_cache_holds(device, monkeypatch):
    """So that a row that a restart had lost would show."""
    expected, _ = served({}, device)
    write = survivor.Engine._write
    monkeypatch.setattr(survivor.Engine, "_write", lambda self, row, begin, tokens: write(self, row, begin, tokens[1:]))
    assert served({}, device)[0] != expected


def test_without_a_policy_the_failure_is_met_by_a_restart(device):
    expected, _ = served({}, device)
    assert served({3: 301}, device) == (expected, 1)


@pytest.mark.parametrize(("arguments", "restarts"), [([], 0), (["--lost"], 1)])
def test_the_report(arguments, restarts, device, capsys):
    assert survivor.main([*arguments, "--device", device]) == 0
    said = capsys.readouterr().out
    assert "requests finished  4 of 4, 46 tokens" in said
    assert f"engine restarts    {restarts}" in said
    assert "saved on the CPU   1 of dense_decode, status 301: dense_decode fails on request" in said
    assert 'flashmla_errors_total{operation="dense_decode",status="301",reason="driver"}' in said


def test_the_status_is_that_of_the_header():
    from flashmla._cdef import ffi

    assert ffi.integer_const("FLASHMLA_ERROR_CONTEXT_LOST") == survivor.CONTEXT_LOST
