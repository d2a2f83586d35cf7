"""What a property says of the case that failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import note


@contextmanager
def telling(case) -> Iterator[None]:
    """A drawn case that fails is printed alone on a line, to be pasted; test_planted_faults.py reads it."""
    try:
        yield
    except AssertionError:
        note(f"failing case: {case!r}")
        raise
