"""Calls of merge_states that are drawn. Simple values come first, because hypothesis shrinks towards them."""

from __future__ import annotations

from hypothesis import strategies as st

from drawing import SEEDS, layouts
from ops.merge_states.calls import MergeCase


@st.composite
def merges(draw, backend, *, small: bool = False, with_lse: bool = False, **fixed):
    """A legal call of merge_states on the backend; `small`: for calls that are refused, every extent is at least 2."""
    route = fixed.get("route") or draw(st.sampled_from(backend.routes))
    adapter = backend.adapter(route)
    dtypes = [dtype for dtype in ("bfloat16", "float16", "float32") if dtype in adapter.dtypes]
    stacked = fixed["stacked"] if "stacked" in fixed else draw(st.booleans())
    batch = (
        fixed["batch"] if "batch" in fixed else draw(st.integers(2, 3) if small else st.sampled_from((1, 2, 3, None)))
    )
    outer = (3 if batch else 2) + stacked
    pair = st.tuples(layouts(outer), layouts(outer, inner=False))
    result = st.tuples(layouts(outer - stacked), layouts(outer - stacked, inner=False))
    given = [name for name in ("out", "lse") if draw(st.booleans())]
    given += ["lse"] if with_lse and "lse" not in given else []
    drawn = {
        "dtype": draw(st.sampled_from(dtypes)),
        "out_dtype": draw(st.sampled_from((None, *dtypes))),
        "num_states": draw(st.integers(2, 4) if small else st.sampled_from((2, 1, 3, 4, 5, 8, 16))),
        "stacked": stacked,
        "batch": batch,
        "s_q": draw(st.integers(2, 3) if small else st.integers(1, 4)),
        "h_q": draw(st.integers(2, 3) if small else st.sampled_from((1, 2, 7, 16, 33))),
        "d_v": draw(st.sampled_from((16, 24) if small else (512, 256, 8, 64, 520, 1000))),
        "empty": draw(st.sampled_from((0.0, 0.3, 0.9))),
        "all_empty": draw(st.sampled_from((0.0, 0.2, 1.0))),
        "lse_base2": draw(st.booleans()),
        "empty_lse_minus": draw(st.booleans()),
        "given": tuple(given) if adapter.writable else (),
        "num_threads": draw(st.sampled_from((0, 1, 2, 5))),
        "route": route,
        "part_layouts": tuple(draw(st.lists(pair, min_size=1, max_size=2))),
        "result_layouts": draw(result),
        "seed": draw(SEEDS),
    }
    return MergeCase(**(drawn | fixed))
