"""Fixtures for the ways that a call of the package can go; tests/conftest.py has them."""

from __future__ import annotations

import contextlib

import pytest


@pytest.fixture
def only_fast(monkeypatch):
    """Within it the long way fails."""
    from flashmla import _operation

    @contextlib.contextmanager
    def only():
        with monkeypatch.context() as patch:
            patch.setattr(_operation.Operation, "ready", lambda *_, **__: pytest.fail("the long way was taken"))
            yield

    return only


@pytest.fixture(params=["torch", "numpy", "torch the long way", "numpy the long way"])
def framework(request):
    """Both ways of making a prepared call."""
    from flashmla import _exchange

    name, _, long = request.param.partition(" ")
    if long:
        with _exchange.long_way():
            yield name
    else:
        yield name
