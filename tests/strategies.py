"""What is drawn: shapes, lengths, layouts, options and a seed. The only home of hypothesis strategies.

Simple values come first in every choice, because hypothesis shrinks towards them. Edges get about half of the weight.
"""

from __future__ import annotations

from hypothesis import strategies as st

from buffers import COMPACT, Layout
from cases import D_QK, INT32_MAX, INT32_MIN, Case, Layouts

# Limits that keep a case near 10 ms for the float64 oracle on one core, and below 16 MB of cache and 64 MB of partials.
MAX_SCORES = 300_000  # query rows x tokens
MAX_CACHE_ELEMENTS = 3_000_000
MAX_PARTIAL_ROWS = 16_384  # query rows x splits; a single large request may pass it
MAX_BATCH, MAX_BLOCKS, MAX_SPLITS = 5, 40, 32

HEADS = st.one_of(st.sampled_from((1, 2, 16, 63, 64, 65, 127, 128)), st.integers(1, 128))
QUERY_TOKENS = st.sampled_from((1, 1, 1, 2, 3, 4, 5, 9))
# None is d_qk^-0.5; then the scale of DeepSeek-V3, a tiny one and one that makes the softmax nearly one-hot.
SCALES = st.sampled_from((None, None, 192**-0.5, 1e-6, 1.0))
SEEDS = st.integers(0, 2**31 - 1)


@st.composite
def layouts(draw, outer: int, *, inner: bool = True):
    """A layout of `outer` dimensions that may be permuted; `inner`: one more, contiguous, follows them."""
    if draw(st.booleans()):
        return COMPACT
    order = draw(st.permutations(range(outer)))
    gaps = draw(st.tuples(*[st.sampled_from((0, 0, 1, 3, 8))] * outer))
    return Layout((*order, outer) if inner else tuple(order), gaps, draw(st.sampled_from((0, 1, 5))))


def all_layouts():
    """A layout for every tensor of a call."""
    return st.builds(
        Layouts,
        q=layouts(3),
        kv_cache=layouts(3),
        block_table=layouts(1),
        cache_seqlens=st.builds(Layout, offset=st.sampled_from((0, 1, 2))),
        out=layouts(3),
        lse=layouts(3, inner=False),
        scratch=st.builds(Layout, offset=st.sampled_from((0, 1, 3))),
    )


def lengths(page_size: int, capacity: int, s_q: int):
    """A value of cache_seqlens: the edges of a page, of the capacity, of the causal bound and of int32."""
    edges = (1, 0, page_size - 1, page_size, page_size + 1, capacity - 1, capacity, s_q - 1, s_q, s_q + 1)
    outside = (-1, capacity + 1, capacity + page_size, INT32_MAX, INT32_MIN)
    return st.one_of(st.sampled_from(edges), st.integers(0, capacity), st.sampled_from((*edges[:6], *outside)))


@st.composite
def extents(draw, backend, num_splits: int):
    """Shapes of a case with that many splits, within the limits above."""
    h_q, s_q = draw(HEADS), draw(QUERY_TOKENS)
    h_kv = draw(st.one_of(st.just(1), st.just(1), st.sampled_from([n for n in range(1, h_q + 1) if h_q % n == 0])))
    page_size = draw(st.sampled_from(backend.page_sizes))
    tokens = min(MAX_SCORES // (h_q * s_q), MAX_CACHE_ELEMENTS // (D_QK * h_kv))
    pages = max(1, tokens // page_size)
    partial_rows = h_q * s_q * max(1, num_splits)
    batch = draw(st.integers(1, max(1, min(MAX_BATCH, pages, MAX_PARTIAL_ROWS // partial_rows))))
    max_blocks = draw(st.integers(1, min(MAX_BLOCKS, max(1, pages // batch))))
    num_blocks = draw(st.integers(1, min(batch * max_blocks + 2, pages)))
    return batch, s_q, h_q, h_kv, page_size, num_blocks, max_blocks


@st.composite
def small_extents(draw, backend):
    """Shapes for calls that are refused, so every extent but h_kv is at least 2: then strides count everywhere."""
    h_q = draw(st.sampled_from((2, 6, 16)))
    page_size = draw(st.sampled_from([n for n in backend.page_sizes if 1 < n <= 64]))
    two = st.integers(2, 3)
    return draw(two), draw(two), h_q, draw(st.sampled_from((1, 2))), page_size, draw(two), draw(two)


@st.composite
def cases(draw, backend, *, num_splits: int | None = None, small: bool = False, with_lse: bool = False, **fixed):
    """A legal call on the backend. `num_splits`: through a plan with that many; `fixed`: fields as they must be.

    `with_lse`: lse is wanted on every route (the C ABI alone can leave it out).
    """
    plan = draw(st.sampled_from(("none", "fresh", "stale")))
    if num_splits is None:
        splits = draw(st.one_of(st.just(0), st.integers(1, MAX_SPLITS))) if plan != "none" else 0
    else:
        plan, splits = ("fresh" if plan == "none" else plan), num_splits
    shapes = small_extents(backend) if small else extents(backend, splits)
    batch, s_q, h_q, h_kv, page_size, num_blocks, max_blocks = draw(shapes)
    dtypes = [fixed["dtype"]] if "dtype" in fixed else backend.dtypes
    routes = [route for route in backend.routes if set(dtypes) & set(backend.adapter(route).dtypes)]
    route = fixed.get("route") or draw(st.sampled_from(routes))
    adapter = backend.adapter(route)
    given = [name for name in ("out", "lse", "workspace", "plan_buffer") if draw(st.booleans())]
    given += ["lse"] if with_lse and "lse" not in given else []
    drawn = {
        "dtype": draw(st.sampled_from([dtype for dtype in dtypes if dtype in adapter.dtypes])),
        "s_q": s_q,
        "h_q": h_q,
        "h_kv": h_kv,
        "page_size": page_size,
        "num_blocks": num_blocks,
        "max_blocks": max_blocks,
        "lengths": draw(st.tuples(*[lengths(page_size, max_blocks * page_size, s_q)] * batch)),
        "causal": draw(st.booleans()),
        "softmax_scale": draw(SCALES),
        "bad_pages": draw(st.sampled_from((False, False, True))),
        "plan": plan,
        "num_splits": splits,
        "given": tuple(given) if adapter.writable else (),
        "num_threads": draw(st.sampled_from((0, 1, 2, 5))),
        "route": route,
        "layouts": draw(all_layouts()),
        "seed": draw(SEEDS),
    }
    return Case(**(drawn | fixed))
