"""Words for sentences."""

from __future__ import annotations

from typing import Any


def a(thing: Any) -> str:
    """What a thing is: "a list", "an int"."""
    name = type(thing).__qualname__
    spoken_as_vowel = name[:1].lower() in "aeio" or name == "ndarray"
    return f"an {name}" if spoken_as_vowel else f"a {name}"
