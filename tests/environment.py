"""Environment variables of the C library, which reads them when it is loaded and when it is told to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import flashmla


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """One of them set for a while."""
    before = os.environ.get(name)
    os.environ[name] = value
    flashmla.read_environment()
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before
        flashmla.read_environment()


def follow_monkeypatch() -> None:
    """Lets the library see each variable of its own that a test sets or that is restored behind it."""
    import pytest

    def own() -> dict[str, str]:
        return {name: text for name, text in os.environ.items() if name.startswith("FLASHMLA_")}

    def followed(change):
        def changed(self, *arguments, **options):
            before = own()
            result = change(self, *arguments, **options)
            if before != own():
                flashmla.read_environment()
            return result

        return changed

    for name in ("setenv", "delenv", "undo"):
        setattr(pytest.MonkeyPatch, name, followed(getattr(pytest.MonkeyPatch, name)))
