"""How many examples a test draws: a share of what the chosen hypothesis profile gives the main property."""

from __future__ import annotations

import hypothesis


def share(part: float, **more):
    """Settings for `part` of the profile's examples, at least two, and any more."""
    return hypothesis.settings(max_examples=max(2, round(part * hypothesis.settings().max_examples)), **more)
