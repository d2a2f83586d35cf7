"""Calls of dense_decode that are drawn: shapes, lengths, layouts, options and a seed.

Simple values come first in every choice, because hypothesis shrinks towards them. Edges get about half of the weight.
"""

from __future__ import annotations

from hypothesis import strategies as st

from buffers import Layout, Pages
from drawing import SEEDS, layouts
from ops.append_kv import oracle as formats
from ops.append_kv.strategies import exports
from ops.dense_decode import oracle
from ops.dense_decode.case import D_QK, INT32_MAX, INT32_MIN, ON_GPUS, Case, Layouts
from ops.dense_decode.oracle import Shard

# Limits that keep a case near 10 ms for the float64 oracle on one core, and below 16 MB of cache and 64 MB of partials.
MAX_SCORES = 300_000  # query rows x tokens
MAX_CACHE_ELEMENTS = 3_000_000
MAX_PARTIAL_ROWS = 16_384  # query rows x splits; a single large request may pass it
MAX_BATCH, MAX_BLOCKS, MAX_SPLITS = 5, 40, 32
MAX_SHORT_PAGES = 400  # tokens of a request in pages so short that more than MAX_BLOCKS of them are needed

HEADS = st.one_of(st.sampled_from((1, 2, 16, 63, 64, 65, 127, 128)), st.integers(1, 128))
QUERY_TOKENS = st.sampled_from((1, 1, 1, 2, 3, 4, 5, 9))
# None is d_qk^-0.5; then the scale of DeepSeek-V3, a tiny one and one that makes the softmax nearly one-hot.
SCALES = st.sampled_from((None, None, 192**-0.5, 1e-6, 1.0))
DESCALES = st.sampled_from((None, 2.0**-6, 0.013, -0.02))  # of codes of N(0, 1)
GEOMETRIES = {"cpu": tuple(oracle.D_V), "gpu": ON_GPUS}  # d_qk


def all_layouts(*, varlen: bool, quantised: bool = False):
    """A layout for every tensor of a call."""
    rows = 2 if varlen else 3  # outer dimensions of q and out
    moved = st.builds(Layout, offset=st.sampled_from((0, 1, 2)))
    return st.builds(
        Layouts,
        q=layouts(rows),
        kv_cache=PAGES if quantised else layouts(3),
        block_table=layouts(1),
        cache_seqlens=moved,
        out=layouts(rows),
        lse=layouts(rows, inner=False),
        cu_seqlens_q=moved,
        global_seqlens=moved,
        attn_sink=moved,
        scratch=st.builds(Layout, offset=st.sampled_from((0, 1, 3))),
        q_rope=layouts(rows),
    )


PAGES = st.builds(Pages, gaps=st.tuples(st.sampled_from((0, 0, 1, 5))), offset=st.sampled_from((0, 1, 2)))


def formats_for(fixed: dict, *, small: bool) -> list[str]:
    """Formats of a cache in a case with these fields."""
    names = ["bf16"] * len(formats.FORMATS)
    if small or fixed.get("dtype", "bfloat16") != "bfloat16" or fixed.get("h_kv", 1) != 1:
        return names
    return names + [name for name, fmt in formats.FORMATS.items() if has_columns(fmt, fixed.get("d_qk"))]


def has_columns(fmt: formats.Format, d_qk: int | None) -> bool:
    """Whether rows of the format may have so many; None: any."""
    return d_qk is None or fmt.of(d_qk, None).columns == d_qk


def bytes_of(adapter) -> list[str]:
    """Dtypes of a cache that is quantised."""
    return [dtype for dtype in ("uint8", "int8", "float8_e4m3fn") if exports(adapter, dtype)]


def lengths(page_size: int, capacity: int, s_q: int):
    """A value of cache_seqlens: the edges of a page, of the capacity, of the causal bound and of int32."""
    edges = (1, 0, page_size - 1, page_size, page_size + 1, capacity - 1, capacity, s_q - 1, s_q, s_q + 1)
    outside = (-1, capacity + 1, capacity + page_size, INT32_MAX, INT32_MIN)
    return st.one_of(st.sampled_from(edges), st.integers(0, capacity), st.sampled_from((*edges[:6], *outside)))


def windows(page_size: int, capacity: int):
    """None, mostly; the edges of a unit and of a page."""
    edges = (1, 2, 63, 64, 65, page_size, page_size + 1, capacity, INT32_MAX)
    return st.one_of(st.just(0), st.just(0), st.sampled_from(edges), st.integers(1, capacity))


@st.composite
def query_offsets(draw, batch: int, s_q: int, *, wild: bool = False):
    """(cu_seqlens_q, total_q): in order, but perhaps outside of q at its ends; `wild`: anything at all."""
    one = st.one_of(st.sampled_from((1, 0, s_q, s_q + 1)), st.integers(0, s_q))
    offsets = [draw(st.sampled_from((0, 0, 0, 1, -2)))]
    for count in draw(st.tuples(*[one] * batch)):
        offsets.append(offsets[-1] + count)
    total_q = max(0, offsets[-1] + draw(st.sampled_from((0, 0, 0, 3, -1))))
    if wild:
        anything = st.one_of(st.integers(-1, total_q + 1), st.sampled_from((INT32_MIN, INT32_MAX, INT32_MAX - 1)))
        offsets = draw(st.tuples(*[anything] * (batch + 1)))
    return tuple(offsets), total_q


@st.composite
def shards(draw, local_lengths: tuple[int, ...], capacity: int):
    """(shard, global_seqlens): lengths that agree with the shard's own, and others."""
    world = draw(st.sampled_from((2, 1, 3, 4, INT32_MAX)))
    rank = draw(st.integers(0, min(world, 4) - 1))
    shard = Shard(rank, world, draw(st.sampled_from((1, 16, 64, 3, 100, INT32_MAX))))
    lengths = []
    for local in local_lengths:
        tokens = shard.global_tokens(min(max(local, 1), capacity))
        fits = st.integers(0, 4).map(lambda more, last=int(tokens[-1]): last + 1 + more)
        inside = st.integers(0, capacity).map(lambda count, known=tokens: int(known[min(count, len(known) - 1)]))
        lengths.append(draw(st.one_of(fits, fits, inside, st.sampled_from((0, 1, -1, INT32_MAX, INT32_MIN)))))
    return shard, tuple(min(length, INT32_MAX) for length in lengths)


@st.composite
def extents(draw, backend, num_splits: int, d_qk: int):
    """Shapes of a case with that many splits, within the limits above."""
    h_q, s_q = draw(HEADS), draw(QUERY_TOKENS)
    h_kv = draw(st.one_of(st.just(1), st.sampled_from([n for n in range(1, h_q + 1) if h_q % n == 0])))
    page_size = draw(st.sampled_from(backend.page_sizes))
    tokens = min(MAX_SCORES // (h_q * s_q), MAX_CACHE_ELEMENTS // (d_qk * h_kv))
    pages = max(1, tokens // page_size)
    partial_rows = h_q * s_q * max(1, num_splits)
    batch = draw(st.integers(1, max(1, min(MAX_BATCH, pages, MAX_PARTIAL_ROWS // partial_rows))))
    max_blocks = draw(st.integers(1, min(max(MAX_BLOCKS, MAX_SHORT_PAGES // page_size), max(1, pages // batch))))
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
def cases(
    draw,
    backend,
    *,
    num_splits: int | None = None,
    small: bool = False,
    with_lse: bool = False,
    varlen: bool | None = None,
    wild: bool = False,
    sharded: bool | None = None,
    kv_formats: tuple[str, ...] = (),
    **fixed,
):
    """A legal call on the backend. `num_splits`: through a plan with that many; `fixed`: fields as they must be.

    `with_lse`: lse is wanted on every route (the C ABI alone can leave it out); `varlen`, `sharded`: whether it has
    variable-length queries, `wild` ones at that, and a shard of a larger cache; None: drawn, or not when small;
    `kv_formats`: of its cache; empty: any, or "bf16" when small.
    """
    plan = draw(st.sampled_from(("none", "fresh", "stale")))
    if fixed.get("batch_invariant"):
        splits = 0
    elif num_splits is None:
        splits = draw(st.one_of(st.just(0), st.integers(1, MAX_SPLITS))) if plan != "none" else 0
    else:
        plan, splits = ("fresh" if plan == "none" else plan), num_splits
    varlen = (draw(st.integers(0, 2)) == 2 and not small) if varlen is None else varlen
    sharded = (draw(st.integers(0, 3)) == 3 and not small) if sharded is None else sharded
    kv_format = fixed.get("kv_format") or draw(st.sampled_from(kv_formats or formats_for(fixed, small=small)))
    fmt = formats.FORMATS.get(kv_format)
    if fmt:
        fixed |= {"dtype": "bfloat16", "h_kv": 1}
    d_qk = fixed.get("d_qk") or (D_QK if small else draw(st.sampled_from((D_QK, D_QK, *GEOMETRIES[backend.name]))))
    d_qk = fmt.of(d_qk, None).columns if fmt else d_qk
    shapes = small_extents(backend) if small else extents(backend, splits, d_qk)
    batch, s_q, h_q, h_kv, page_size, num_blocks, max_blocks = draw(shapes)
    dtypes = [fixed["dtype"]] if "dtype" in fixed else backend.dtypes
    routes = [route for route in backend.routes if set(dtypes) & set(backend.adapter(route).dtypes)]
    route = fixed.get("route") or draw(st.sampled_from(routes))
    adapter = backend.adapter(route)
    if kv_format == "model1" and not adapter.writable:
        kv_format, fmt = "v41", formats.FORMATS["v41"]  # its compact pages would not begin at multiples of 16 bytes
    given = [name for name in ("out", "lse", "workspace", "plan_buffer") if draw(st.booleans())]
    given += ["lse"] if with_lse and "lse" not in given else []
    capacity = max_blocks * page_size
    local = draw(st.tuples(*[lengths(page_size, capacity, s_q)] * batch))
    drawn = {
        "dtype": draw(st.sampled_from([dtype for dtype in dtypes if dtype in adapter.dtypes])),
        "s_q": s_q,
        "h_q": h_q,
        "h_kv": h_kv,
        "page_size": page_size,
        "num_blocks": num_blocks,
        "max_blocks": max_blocks,
        "lengths": local,
        "causal": draw(st.booleans()),
        "softmax_scale": draw(SCALES),
        "bad_pages": draw(st.sampled_from((False, False, True))),
        "plan": plan,
        "num_splits": splits,
        "given": tuple(given) if adapter.writable else (),
        "num_threads": draw(st.sampled_from((0, 1, 2, 5))),
        "route": route,
        "layouts": draw(all_layouts(varlen=varlen, quantised=bool(fmt))),
        "seed": draw(SEEDS),
        "d_qk": d_qk,
        "kv_format": kv_format,
        "cache_dtype": draw(st.sampled_from(bytes_of(adapter))) if fmt else "uint8",
        "out_dtype": draw(st.sampled_from((None, None, "float32"))),
        "lse_base2": draw(st.booleans()),
        "empty_lse_minus": draw(st.booleans()),
        "batch_invariant": splits == 0 and draw(st.booleans()),
        "sink": None if small else draw(st.sampled_from((None, None, None, "some", "wild"))),
    }
    if kv_format == "fp8":
        drawn["descale_k"] = draw(DESCALES)
        coded = not small
        drawn["q_dtype"] = draw(st.sampled_from((None, *bytes_of(adapter)))) if coded else None
        drawn["descale_q"] = draw(DESCALES) if drawn["q_dtype"] else None
        drawn["compute"] = draw(st.sampled_from(("default", "fp8")))
    if varlen:
        equal = st.just((tuple(2 * i for i in range(batch + 1)), 2 * batch))
        offsets = equal if small else query_offsets(batch, s_q, wild=wild)
        drawn["cu_seqlens_q"], drawn["total_q"] = draw(offsets)
    if not sharded and "shard" not in fixed and not small:
        drawn["window"] = draw(windows(page_size, capacity))
    if sharded:
        drawn["shard"], drawn["global_seqlens"] = draw(shards(local, capacity))
    drawn["parted"] = d_qk > oracle.D_V[d_qk] and not small and draw(st.booleans())
    return Case(**(drawn | fixed))
