"""Calls of sparse_decode that are drawn: shapes, lengths, layouts, options and a seed.

Simple values come first in every choice, because hypothesis shrinks towards them. Edges get about half of the weight.
"""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from buffers import Layout, Pages
from drawing import SEEDS, layouts
from ops.append_kv import oracle as formats
from ops.append_kv.strategies import FORMATS
from ops.dense_decode.oracle import D_V
from ops.dense_decode.strategies import (
    DESCALES,
    HEADS,
    INT32_MAX,
    INT32_MIN,
    SCALES,
    bytes_of,
    has_columns,
    query_offsets,
)
from ops.sparse_decode.case import Cache, SparseCase, SparseLayouts

# Limits that keep a case near 10 ms for the float64 oracle on one core.
MAX_SCORES = 150_000  # query rows x selected tokens
MAX_SLOTS = 1200  # of a cache

PAGE_SIZES = (64, 1, 2, 7, 53, 576)
TOPKS = st.one_of(st.sampled_from((1, 0, 63, 64, 65, 128, 200)), st.integers(0, 320))
GEOMETRIES = {"cpu": tuple(D_V), "gpu": (576, 512)}  # d_qk of caches whose format leaves it open
MOVED = st.builds(Layout, offset=st.sampled_from((0, 1, 2)))


def dtypes_of(backend, kv_formats: tuple[str, ...]) -> tuple[str, ...]:
    """Of q. What is quantised goes with bfloat16, and so do the kernels of a GPU."""
    quantises = any(kv_format != "bf16" for kv_format in kv_formats)
    return ("bfloat16",) if quantises or backend.name == "gpu" else backend.dtypes


def formats_of(d_qk: int) -> list[str]:
    """Those whose rows have so many columns."""
    return ["bf16", *(name for name, fmt in formats.FORMATS.items() if has_columns(fmt, d_qk))]


def formats_on(backend) -> tuple[str, ...]:
    """Those that the backend reads."""
    return FORMATS if backend.name == "cpu" else ("bf16", *formats.SCALED)


def skip_unless_read(backend, kv_format: str) -> None:
    if kv_format not in formats_on(backend):
        pytest.skip("no kernel reads the format")


def lengths(topk: int):
    """A value of topk_length: the edges of a unit, of topk and of int32."""
    inside = st.one_of(st.sampled_from((topk, 0, 1, 63, 64, 65, topk - 1)), st.integers(0, topk))
    return st.one_of(inside, inside, st.sampled_from((-1, topk + 1, INT32_MAX, INT32_MIN)))


@st.composite
def caches(
    draw, adapter, kv_format: str, columns: int, batch: int, rows: int, tokens: int, *, small: bool, scaled: bool
):
    """A cache of the format; `rows`: query rows in all, `tokens`: query tokens' axes."""
    page_size = draw(st.sampled_from((2, 4, 16) if small else PAGE_SIZES))
    topk = draw(st.integers(2, 5) if small else TOPKS)
    given = st.tuples(*[lengths(topk)] * batch)
    quantised = draw(st.builds(Pages, gaps=st.tuples(st.sampled_from((0, 1, 5)))))
    if kv_format == "model1" and not adapter.writable:
        page_size = 64  # compact pages of another size would not begin at multiples of 16 bytes
    return Cache(
        kv_format=kv_format,
        cache_dtype=draw(st.sampled_from(bytes_of(adapter))),
        columns=columns,
        descale=draw(DESCALES.filter(lambda one: one or not scaled)) if kv_format == "fp8" else None,
        num_blocks=draw(st.integers(2, 3) if small else st.integers(1, max(1, min(40, MAX_SLOTS // page_size)))),
        page_size=page_size,
        topk=min(topk, MAX_SCORES // rows),
        lengths=draw(given if small else st.one_of(st.none(), given)),
        cache_layout=quantised if kv_format != "bf16" else draw(layouts(3)),
        indices_layout=draw(layouts(tokens)),
        lengths_layout=draw(MOVED),
    )


@st.composite
def all_layouts(draw, tokens: int):
    return SparseLayouts(
        q=draw(layouts(tokens + 1)),
        q_rope=draw(layouts(tokens + 1)),
        out=draw(layouts(tokens + 1)),
        lse=draw(layouts(tokens + 1, inner=False)),
        cu_seqlens_q=draw(MOVED),
        attn_sink=draw(MOVED),
        scratch=draw(st.builds(Layout, offset=st.sampled_from((0, 1, 3)))),
    )


@st.composite
def cases(
    draw,
    backend,
    *,
    small: bool = False,
    with_lse: bool = False,
    varlen: bool | None = None,
    twofold: bool | None = None,
    kv_formats: tuple[str, ...] = FORMATS,
    scaled: bool = False,
    **fixed,
):
    """A legal call on the backend; `fixed`: fields as they must be.

    `small`: for calls that are refused, so every extent is at least 2, that strides count, and optional tensors are
    given; `with_lse`: lse is wanted on every route (the C ABI alone can leave it out); `varlen`, `twofold`: whether it
    has variable-length queries, and an extra cache; None: drawn, or not when small; `kv_formats`: of its caches;
    `scaled`: one of codes is given its scale.
    """
    kv_format = draw(st.sampled_from([one for one in kv_formats if one in formats_on(backend)]))
    fmt = formats.FORMATS.get(kv_format)
    d_qk = fixed.get("d_qk") or draw(st.sampled_from(GEOMETRIES[backend.name]))
    d_qk = fmt.of(d_qk, None).columns if fmt else d_qk
    twofold = (draw(st.integers(0, 2)) == 2 and not small) if twofold is None else twofold
    second = [one for one in formats_of(d_qk) if one in kv_formats and one in formats_on(backend)]
    extra_format = draw(st.sampled_from(second)) if twofold else kv_format
    varlen = (draw(st.integers(0, 2)) == 2 and not small) if varlen is None else varlen

    dtypes = [fixed["dtype"]] if "dtype" in fixed else dtypes_of(backend, (kv_format, extra_format))
    routes = [route for route in backend.routes if set(dtypes) & set(backend.adapter(route).dtypes)]
    route = fixed.get("route") or draw(st.sampled_from(routes))
    adapter = backend.adapter(route)
    batch = draw(st.integers(2, 3) if small else st.sampled_from((1, 2, 3, 5)))
    s_q = draw(st.integers(2, 3) if small else st.sampled_from((1, 1, 2, 3, 4)))
    h_q = draw(st.sampled_from((2, 6, 16)) if small else HEADS)
    axes = 1 if varlen else 2
    given = [name for name in ("out", "lse", "workspace", "plan_buffer") if draw(st.booleans())]
    invariant = fixed.get("batch_invariant", draw(st.booleans()))
    plan = fixed.get("plan") or ("none" if small else draw(st.sampled_from(("none", "fresh", "stale"))))
    given += ["lse"] if with_lse and "lse" not in given else []
    drawn = {
        "dtype": draw(st.sampled_from([dtype for dtype in dtypes if dtype in adapter.dtypes])),
        "d_qk": d_qk,
        "parted": d_qk > D_V[d_qk] and not small and draw(st.booleans()),
        "batch": batch,
        "s_q": s_q,
        "h_q": h_q,
        # JAX has no integers of 64 bits unless it is told to.
        "index_dtype": "int32" if adapter.name == "jax" else draw(st.sampled_from(("int32", "int64"))),
        "outside": draw(st.sampled_from((0.0, 0.1, 0.9, 1.0))),
        "repeated": draw(st.sampled_from((0.0, 0.1, 0.9))),
        "sink": "some" if small else draw(st.sampled_from((None, None, "some", "wild"))),
        "softmax_scale": draw(SCALES),
        "plan": plan,
        "num_splits": 0 if plan == "none" else draw(st.sampled_from((0, 0, 1, 2, 3, 7))),
        "plan_format": None if plan == "none" else draw(st.sampled_from((None, None, "bf16", "v32"))),
        "given": tuple(given) if adapter.writable else (),
        "num_threads": draw(st.sampled_from((0, 1, 2, 5))),
        "route": route,
        "layouts": draw(all_layouts(axes)),
        "seed": draw(SEEDS),
        "out_dtype": draw(st.sampled_from((None, None, "float32"))),
        "lse_base2": draw(st.booleans()),
        "empty_lse_minus": draw(st.booleans()),
        "batch_invariant": invariant,
        "paired": draw(st.booleans()),
    }
    drawn |= {name: value for name, value in fixed.items() if name not in {"main", "extra"}}
    rows = max(1, drawn["batch"] * drawn["s_q"] * drawn["h_q"])
    of_cache = {
        "columns": d_qk,
        "batch": drawn["batch"],
        "rows": rows,
        "tokens": axes,
        "small": small,
        "scaled": scaled,
    }
    drawn["main"] = fixed.get("main") or draw(caches(adapter, kv_format, **of_cache))
    if twofold:
        drawn["extra"] = fixed.get("extra") or draw(caches(adapter, extra_format, **of_cache))
    if varlen:
        equal = st.just((tuple(2 * i for i in range(batch + 1)), 2 * batch))
        drawn["cu_seqlens_q"], drawn["total_q"] = draw(equal if small else query_offsets(batch, s_q))
    return SparseCase(**drawn)
