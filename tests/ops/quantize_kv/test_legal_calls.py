"""quantize_kv: any tokens become pages of any format, in their order, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flashmla
from ops.append_kv import calls as writing
from ops.append_kv import oracle, strategies
from ops.append_kv.calls import WriteCase
from ops.quantize_kv import calls
from properties import share, shown_if_it_fails


@share(1 / 4)
@given(data=st.data())
def test_any_tokens_are_quantised_as_the_oracle_says(backend, data):
    case = data.draw(strategies.writes(backend, formats=tuple(oracle.FORMATS)))
    with shown_if_it_fails(case):
        calls.check(case.but(num_blocks=-(-case.num_tokens // case.page_size) + 1), backend)


@pytest.mark.parametrize("kv_format", oracle.FORMATS)
def test_many_tokens(backend, kv_format):
    calls.check(WriteCase(kv_format, num_tokens=2000, num_blocks=40, page_size=53, num_threads=4), backend)


@pytest.mark.parametrize("kv_format", oracle.FORMATS)
@pytest.mark.parametrize("page_size", [0, 1, 2, 3, 64])
def test_pages_that_are_made(backend, kv_format, page_size):
    """By every framework, of the size wanted; the same as pages that are given."""
    fmt = oracle.FORMATS[kv_format]
    for route, adapter in backend.adapters.items():
        if "bfloat16" not in adapter.dtypes:
            continue
        case = WriteCase(kv_format, num_tokens=7, route=route, split=False)
        tokens = writing.Tokens(case, backend)
        if page_size in {1, 3} and fmt.token_bytes % 16:
            with pytest.raises(flashmla.InvalidArgumentError, match=r"^out\.strides\[0\] is .* a multiple of 16 bytes"):
                flashmla.quantize_kv(tokens.inputs["latent"].tensor, kv_format=kv_format, page_size=page_size)
            continue
        made = adapter.call(
            flashmla.quantize_kv, tokens.inputs["latent"].tensor, kv_format=kv_format, page_size=page_size
        )
        pages = adapter.to_numpy(made)
        assert pages.dtype == np.uint8
        size = page_size or 7
        assert pages.shape == (-(-7 // size), size, 1, fmt.token_bytes)
        wanted = pages.reshape(len(pages), size, -1).copy()
        for token, row in enumerate(tokens.columns):
            oracle.put(fmt, wanted[token // size], token % size, *writing.token_of(case, row))
        np.testing.assert_array_equal(pages.reshape(wanted.shape), wanted)
