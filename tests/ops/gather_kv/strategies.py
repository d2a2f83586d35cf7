"""Calls of gather_kv and dequantize_kv that are drawn. Simple values come first: hypothesis shrinks towards them."""

from __future__ import annotations

from hypothesis import strategies as st

from buffers import Pages
from drawing import SEEDS, layouts
from ops.append_kv.strategies import DESCALES, FORMATS, exports
from ops.gather_kv.calls import ReadCase


@st.composite
def reads(draw, backend, *, small: bool = False, formats: tuple[str, ...] = FORMATS, **fixed):
    """A legal call on the backend; `small`: for calls that are refused, every extent is at least 2."""
    route = fixed.get("route") or draw(st.sampled_from(backend.routes))
    adapter = backend.adapter(route)
    kv_format = fixed.get("kv_format") or draw(st.sampled_from(formats))
    quantizes = kv_format != "bf16"
    dtypes = [dtype for dtype in ("bfloat16", "float16", "float32") if dtype in adapter.dtypes]
    batch = draw(st.integers(2, 3) if small else st.sampled_from((1, 2, 3, 7, 40)))
    lengths = st.integers(1, 4) if small else st.sampled_from((0, 1, 5, 17, 64))
    max_blocks = draw(st.integers(2, 3) if small else st.sampled_from((1, 2, 5, 0)))
    compact = kv_format == "model1" and not adapter.writable  # pages of an odd size need gaps
    page_size = draw(st.sampled_from((2, 4) if small else (64, 2, 16) if compact else (64, 1, 2, 7, 16, 53)))
    starts = st.sampled_from((0, 1, page_size, page_size * max_blocks, -1, 2**31 - 1, -(2**31)))
    drawn = {
        "kv_format": kv_format,
        "dtype": draw(st.sampled_from(dtypes)),
        "cache_dtype": draw(st.sampled_from([d for d in ("uint8", "int8", "float8_e4m3fn") if exports(adapter, d)])),
        "d_qk": draw(st.sampled_from((576, 512, 80 if quantizes else 72, 320, 1088))),
        "descale": draw(DESCALES) if kv_format == "fp8" else None,
        "num_blocks": draw(st.integers(2, 3) if small else st.integers(1, 5)),
        "page_size": page_size,
        "max_blocks": max_blocks,
        "lengths": tuple(draw(st.lists(lengths, min_size=batch, max_size=batch))),
        "starts": tuple(draw(st.lists(starts, min_size=batch, max_size=batch))) if draw(st.booleans()) else None,
        "before": draw(st.sampled_from((0, 1, 5))),
        "behind": draw(st.sampled_from((0, 1, 40))),
        "outside": draw(st.sampled_from((0.0, 0.2, 1.0))),
        "num_threads": draw(st.sampled_from((0, 1, 2, 5))),
        "route": route,
        "given": draw(st.booleans()) and adapter.writable,
        "out_layout": draw(layouts(1)),
        "table_layout": draw(layouts(1)),
        "seed": draw(SEEDS),
    }
    drawn |= fixed
    gaps = st.sampled_from((0, 1, 5))
    drawn.setdefault("cache_layout", draw(st.builds(Pages, gaps=st.tuples(gaps))) if quantizes else draw(layouts(3)))
    return ReadCase(**drawn)
