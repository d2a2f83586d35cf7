"""What properties share: how many examples one draws, what it says of the one that failed, how many there were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import hypothesis

drawn: Counter[tuple[str, str]] = Counter()  # calls made so far by (backend, "valid" or "invalid")


def share(part: float, **more):
    """Settings for `part` of the examples that the profile gives the main property, at least two, and any more."""
    return hypothesis.settings(max_examples=max(2, round(part * hypothesis.settings().max_examples)), **more)


@contextmanager
def shown_if_it_fails(case) -> Iterator[None]:
    """A drawn case that fails is printed alone on a line, to be pasted; test_planted_faults.py reads it."""
    try:
        yield
    except AssertionError:
        hypothesis.note(f"failing case: {case!r}")
        raise
