"""What tests of the checking mode share."""

from __future__ import annotations

import pytest

import backends
import flashmla


def once(self, operation, *arguments, **options):  # noqa: ARG001 - a method
    return operation(*arguments, **options)


@pytest.fixture
def checking(monkeypatch):
    """The mode, and adapters that make a call once: on a GPU every call counts."""
    monkeypatch.setenv("FLASHMLA_CHECK", "1")
    monkeypatch.setattr(backends.Adapter, "call", once)


def done(backend) -> None:
    """Waits for a GPU."""
    if backend.name == "gpu":
        import torch

        torch.cuda.synchronize()


def told(backend, call) -> str:
    """The sentence about a call, from the call itself or from the report behind it; "" where there is none."""
    try:
        call()
        done(backend)
        flashmla.check_report()
    except flashmla.InvalidArgumentError as error:
        if error.status_name != "FLASHMLA_ERROR_TENSOR_VALUE":
            raise
        flashmla.check_report()  # it is told once
        return str(error)
    return ""


def begin_of(backend) -> str:
    """Of a sentence, a pattern."""
    return "" if backend.name == "cpu" else rf"a call before this one, on CUDA device {backend.device[1]}: "
