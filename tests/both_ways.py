"""The two ways that calls of the package go, the fast one and the long one, as fixtures."""

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
    """The name of a framework, whose calls go one way or the other."""
    from flashmla import _exchange

    name, _, long = request.param.partition(" ")
    if long:
        with _exchange.long_way():
            yield name
    else:
        yield name
