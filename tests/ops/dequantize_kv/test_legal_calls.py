"""dequantize_kv: the tokens of any pages become rows, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flashmla
from ops.append_kv import calls as writing
from ops.append_kv import oracle
from ops.append_kv.strategies import SMALL
from ops.dequantize_kv import calls
from ops.gather_kv import strategies
from ops.gather_kv.calls import ReadCase
from properties import share, shown_if_it_fails


@share(1 / 4)
@given(data=st.data())
def test_any_pages_are_read_as_the_oracle_says(backend, data):
    case = data.draw(strategies.reads(backend))
    with shown_if_it_fails(case):
        calls.check(case, backend)


@pytest.mark.parametrize("kv_format", oracle.FORMATS)
def test_many_tokens(backend, kv_format):
    calls.check(ReadCase(kv_format, num_blocks=40, page_size=53, num_threads=4), backend)


@pytest.mark.parametrize("kv_format", oracle.FORMATS)
def test_what_was_quantised_comes_back(backend, kv_format):
    """Within half a step of a code; RoPE columns as they were."""
    adapter = backend.adapter("torch" if "torch" in backend.adapters else "numpy")
    rows = np.random.default_rng(3).standard_normal((70, oracle.FORMATS[kv_format].columns)).astype(np.float32)
    rows = rows.astype(writing.DTYPES["bfloat16"])
    latent = writing.Guarded(adapter, rows.shape, "bfloat16", values=rows).tensor
    options = {"kv_format": kv_format}
    if kv_format == "fp8":
        options["descale_k"] = adapter.place(np.array([SMALL], np.float32))
    pages = flashmla.quantize_kv(latent, **options)
    back = adapter.to_numpy(flashmla.dequantize_kv(pages, **options)).astype(np.float32)
    wanted = rows.astype(np.float32)
    np.testing.assert_allclose(back, wanted, rtol=1 / 15, atol=2.0**-9 * 2.0**-6)
    quantized = oracle.FORMATS[kv_format].quantized
    np.testing.assert_array_equal(back[:, quantized:], wanted[:, quantized:])
