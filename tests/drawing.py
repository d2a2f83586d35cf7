"""What drawn calls of all operations are made of.

Simple values come first in every choice, because hypothesis shrinks towards them.
"""

from __future__ import annotations

from hypothesis import strategies as st

from buffers import COMPACT, Layout

SEEDS = st.integers(0, 2**31 - 1)


@st.composite
def layouts(draw, outer: int, *, inner: bool = True):
    """A layout of `outer` dimensions that may be permuted; `inner`: one more, contiguous, follows them."""
    if draw(st.booleans()):
        return COMPACT
    order = draw(st.permutations(range(outer)))
    gaps = draw(st.tuples(*[st.sampled_from((0, 0, 1, 3, 8))] * outer))
    return Layout((*order, outer) if inner else tuple(order), gaps, draw(st.sampled_from((0, 1, 5))))
