"""Calls of append_kv and quantize_kv that are drawn. Simple values come first: hypothesis shrinks towards them."""

from __future__ import annotations

from hypothesis import strategies as st

from buffers import COMPACT, Layout, Pages
from drawing import SEEDS, layouts
from ops.append_kv import oracle
from ops.append_kv.calls import WriteCase

FORMATS = ("bf16", *oracle.FORMATS)
SMALL = 2.0**-6  # a scale that leaves N(0, 1) within the codes' range, and small numbers their bits
# Of a cache with one scale: none, those of real caches, and what makes all columns zero, infinite or NaN.
DESCALES = st.one_of(
    st.sampled_from((None, 1.0, 2.0**-6, 0.013, -0.37)),
    st.sampled_from((0.0, 1e-45, 1e-39, 2.0**100, 3e38, float("inf"), float("nan"))),
)


@st.composite
def writes(draw, backend, *, small: bool = False, formats: tuple[str, ...] = FORMATS, **fixed):
    """A legal call on the backend; `small`: for calls that are refused, every extent is at least 2."""
    route = fixed.get("route") or draw(
        st.sampled_from([r for r in backend.routes if r == "c" or backend.adapter(r).writable])
    )
    adapter = backend.adapter(route)
    kv_format = fixed.get("kv_format") or draw(st.sampled_from(formats))
    quantizes = kv_format != "bf16"
    dtypes = [dtype for dtype in ("bfloat16", "float16", "float32") if dtype in adapter.dtypes]
    if quantizes:
        dtypes = [dtype for dtype in dtypes if dtype in backend.dtypes]
    drawn = {
        "kv_format": kv_format,
        "dtype": draw(st.sampled_from(dtypes)),
        "cache_dtype": draw(st.sampled_from([d for d in ("uint8", "int8", "float8_e4m3fn") if exports(adapter, d)])),
        "d_qk": draw(st.sampled_from((576, 512, 80 if quantizes else 72, 320, 1088))),
        "num_tokens": draw(st.integers(2, 3) if small else st.sampled_from((1, 0, 2, 5, 33, 130))),
        "num_blocks": draw(st.integers(2, 3) if small else st.integers(1, 5)),
        "page_size": draw(st.sampled_from((2, 4) if small else (64, 1, 2, 7, 16, 53))),
        "slot_dtype": draw(st.sampled_from(("int64", "int32"))),
        "repeated": draw(st.sampled_from((0.0, 0.2, 1.0))),
        "outside": draw(st.sampled_from((0.0, 0.2, 1.0))),
        "split": draw(st.booleans()),
        "unrounded": draw(st.booleans()) and kv_format in {"v32", "v32_nope"},
        "descale": draw(DESCALES) if kv_format == "fp8" else None,
        "num_threads": draw(st.sampled_from((0, 1, 2, 5))),
        "route": route,
        "latent_layout": draw(layouts(1)),
        "rope_layout": draw(layouts(1)),
        "slots_layout": draw(slot_layouts()),
        "seed": draw(SEEDS),
    }
    drawn |= fixed
    gaps = st.sampled_from((0, 1, 5))
    drawn.setdefault("cache_layout", draw(st.builds(Pages, gaps=st.tuples(gaps))) if quantizes else draw(layouts(3)))
    return WriteCase(**drawn)


def exports(adapter, dtype: str) -> bool:
    """Whether tensors of the dtype go through DLPack everywhere; bytes always do."""
    return dtype != "float8_e4m3fn" or adapter.name.startswith("numpy")


def slot_layouts():
    """Slots one behind another, or with gaps."""
    return st.sampled_from((COMPACT, Layout(gaps=(3,)), Layout(gaps=(1,), offset=1)))
