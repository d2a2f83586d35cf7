"""gather_kv: the tokens of any requests, in any layout, as rows in any format, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import c_abi
from ops.append_kv import oracle
from ops.append_kv.strategies import FORMATS
from ops.gather_kv import calls, strategies
from ops.gather_kv.calls import ReadCase
from properties import share, shown_if_it_fails

SCALES = (0, 1e-45, 2.0**-127, 1e-38, 255, 256, 2.0**100, 3e38, np.inf, np.nan, -1.5, 0.1)


@share(1 / 2)
@given(data=st.data())
def test_any_requests_are_gathered_as_the_oracle_says(backend, data):
    case = data.draw(strategies.reads(backend))
    with shown_if_it_fails(case):
        calls.check(case, backend)


@pytest.mark.parametrize("kv_format", FORMATS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_pair_of_formats_and_dtypes(backend, kv_format, dtype):
    case = ReadCase(kv_format, dtype, num_blocks=9, page_size=53, max_blocks=4, lengths=(200, 0, 1, 212, 53))
    calls.check(case.but(starts=(7, 0, 211, 0, 53), num_threads=4), backend)


@pytest.mark.parametrize("batch", [1, 31, 32, 33, 64, 65, 500])
def test_many_requests(backend, batch):
    calls.check(ReadCase("model1", lengths=tuple(i % 3 for i in range(batch)), before=2, behind=3), backend)


@pytest.mark.parametrize("kv_format", ["bf16", "v32", "model1"])
def test_more_rows_than_warps(backend, kv_format):
    """A warp of a GPU has rows of several requests then."""
    lengths = (*(90 + i % 3 for i in range(95)), 0, 1, 0)
    case = ReadCase(kv_format, num_blocks=20, page_size=53, max_blocks=2, lengths=lengths, before=2, behind=3)
    calls.check(case.but(num_threads=4), backend)


@pytest.mark.parametrize("kv_format", FORMATS)
def test_nothing_to_gather(backend, kv_format):
    base = ReadCase(kv_format)
    for case in (base.but(lengths=()), base.but(lengths=(0, 0)), base.but(max_blocks=0)):
        calls.check(case.but(behind=3), backend)
        calls.check(case.but(lengths=(0,) * len(case.lengths)), backend)


@pytest.mark.parametrize("kv_format", FORMATS)
def test_offsets_that_make_no_sense_stay_inside(backend, kv_format):
    """Rows may hold anything then, but nothing outside the tensors is touched."""
    for offsets in ((9, 3, 0), (-5, 2**31 - 1, -1), (2**31 - 1, -(2**31), 5), (0, 0, 2**31 - 1)):
        case = ReadCase(kv_format, lengths=(3, 4), starts=(2**31 - 1, -(2**31)))
        pages = calls.Pages(case, backend)
        pages.place_requests()
        wrong = np.array(offsets, np.int32)
        pages.inputs["cu_seqlens"] = calls.Guarded(pages.adapter, (3,), "int32", values=wrong)
        out = pages.output(case.num_tokens)
        assert pages.c_call("gather_kv", out).run() == 0, c_abi.last_error()
        out.check_only_elements_written("out")
        pages.check_inputs_unchanged()


def test_one_page_for_all_by_strides_of_0(backend):
    case = ReadCase(lengths=(12, 12), outside=0.0, num_blocks=1)
    pages = calls.Pages(case, backend)
    pages.place_requests()
    out = pages.output(case.num_tokens)
    call = pages.c_call("gather_kv", out)
    call.tensor("block_table").strides[0] = 0
    call.tensor("kv_cache").strides[0] = 0
    call.tensor("kv_cache").shape[0] = 2**31 - 1
    pages.table[:] = pages.table[0]
    assert call.run() == 0, c_abi.last_error()
    pages.check_rows(out.values(), 0, [pages.token(0, i % 4) for i in range(24)])


@pytest.mark.parametrize("kv_format", oracle.SCALED)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_code_with_every_kind_of_scale(backend, kv_format, dtype):
    """0, subnormal, the largest, infinity, NaN, and what is no power of two."""
    fmt = oracle.FORMATS[kv_format]
    case = ReadCase(kv_format, dtype, num_blocks=4, page_size=64, max_blocks=4, lengths=(256,), outside=0.0)
    pages = calls.Pages(case, backend)
    scales = np.array(SCALES, "<f4")
    for code in range(256):
        row = np.full(fmt.quantized + 2 * (fmt.columns - fmt.quantized), code, np.uint8)
        chosen = np.arange(code, code + fmt.tiles)
        given = chosen.astype(np.uint8) if fmt.scale == "e8m0" else scales[chosen % len(scales)].view(np.uint8)
        page = pages.cache_values[code // 64].view(np.uint8)
        oracle.put(fmt, page, code % 64, row, given)
    pages.inputs["kv_cache"] = calls.Guarded(
        pages.adapter, case.cache_shape, "uint8", case.cache_layout, 16, pages.cache_values
    )
    pages.place_requests()
    out = pages.output(256)
    assert pages.c_call("gather_kv", out).run() == 0, c_abi.last_error()
    pages.check_rows(out.values(), 0, [pages.row(0, i) for i in range(256)])


@pytest.mark.parametrize("descale", SCALES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_code_with_one_scale_for_all(backend, descale, dtype):
    case = ReadCase("fp8", dtype, num_blocks=1, page_size=256, max_blocks=1, lengths=(256,), outside=0.0)
    pages = calls.Pages(case.but(descale=float(descale)), backend)
    pages.cache_values[0, :, 0] = np.arange(256, dtype=np.uint8)[:, None]
    kind = "uint8", case.cache_layout, 16
    pages.inputs["kv_cache"] = calls.Guarded(pages.adapter, case.cache_shape, *kind, pages.cache_values)
    pages.place_requests()
    out = pages.output(256)
    assert pages.c_call("gather_kv", out).run() == 0, c_abi.last_error()
    pages.check_rows(out.values(), 0, [pages.row(0, i) for i in range(256)])
