"""Caches that are quantised: what append_kv writes sparse_decode reads, to the last bit of every code and scale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import flashmla
from attention import Result
from backends import Backend
from buffers import DTYPES, Guarded
from ops.append_kv import oracle as formats
from ops.append_kv.calls import WriteCase, make_columns
from ops.append_kv.strategies import FORMATS
from ops.sparse_decode import calls
from ops.sparse_decode.case import Cache, SparseCase
from ops.sparse_decode.data import Selected, make_data, rows_of
from ops.sparse_decode.strategies import skip_unless_read

ONE_A_TOKEN = SparseCase(main=Cache(num_blocks=4, topk=1), batch=1, s_q=256, h_q=2, given=("lse",), out_dtype="float32")


@pytest.fixture
def cpu(backend) -> Backend:
    if backend.name != "cpu":
        pytest.skip("no kernel reads a cache of codes with one scale")
    return backend


def each_slot_alone(kv_format: str, kv_cache: np.ndarray, slots: np.ndarray, descale: float | None = None, **alone):
    """Query tokens that attend a slot each, and are zero unless given: out is the row itself. alone: h_q; and topk,
    indices of which the others select nothing, each at a place of its own.
    """
    fmt, topk = formats.FORMATS.get(kv_format), alone.get("topk", 1)
    columns = fmt.columns if fmt else 576
    case = ONE_A_TOKEN.but(kv_format=kv_format, s_q=len(slots), d_qk=columns, descale=descale, **alone)
    numbers = make_data(case)
    indices = np.full((1, len(slots), topk), -1, np.int32)
    indices[0, np.arange(len(slots)), np.arange(len(slots)) % topk] = slots
    scale = numbers.caches[""].descale_k
    return case, replace(numbers, q=np.zeros_like(numbers.q), caches={"": Selected(kv_cache, indices, None, scale)})


# On a GPU one block of heads, or two, which make what they attend for each other: there each place of a unit.
ALONE = pytest.mark.parametrize("alone", [{}, {"h_q": 128, "topk": 64}], ids=["a block", "two blocks"])


@ALONE
@pytest.mark.parametrize("kv_format", formats.SCALED)
def test_every_code_with_every_kind_of_scale(backend, kv_format, alone):
    """Products in float32 that are rounded to bfloat16, whatever the scale is: a power of two or not, large, tiny."""
    fmt = formats.FORMATS[kv_format]
    pages = np.zeros((4, 64, 1, fmt.token_bytes), np.uint8)
    scales = np.array([0, 2.0**-120, 1e-30, 0.1, 1, 255, 256, 257.3, 2.0**100, 7e29, -1.5, 1 / 3], "<f4")
    codes_of_scales = np.array([7, 64, 126, 127, 128, 134, 135, 136, 200, 227, 0], np.uint8)
    for code in range(256):
        row = np.full(fmt.quantized + 2 * (fmt.columns - fmt.quantized), code, np.uint8)
        row[fmt.quantized :] = 0x3F  # some number
        if code in {0x7F, 0xFF}:
            row[: fmt.quantized] = np.arange(fmt.quantized) % 0x7F
        chosen = np.arange(code, code + fmt.tiles)
        wide = fmt.scale != "e8m0"
        given = scales[chosen % 12].view(np.uint8) if wide else codes_of_scales[chosen % 11]
        formats.put(fmt, pages[code // 64], code % 64, row, given)
    case, numbers = each_slot_alone(kv_format, pages, np.arange(256), **alone)
    wanted = rows_of(case.main, pages)[:, None, :512]
    assert np.isfinite(wanted).all()
    found = calls.run(case, backend, numbers).out[0]
    subnormal = np.abs(wanted) < 2.0**-126  # which count as zero
    np.testing.assert_array_equal(np.where(subnormal, 0, found), np.where(subnormal, 0, wanted).repeat(case.h_q, 1))


@ALONE
@pytest.mark.parametrize("kv_format", formats.SCALED)
def test_one_nan_spoils_its_row_alone(backend, kv_format, alone):
    fmt = formats.FORMATS[kv_format]
    pages = np.zeros((4, 64, 1, fmt.token_bytes), np.uint8)
    for token in range(0, 256, 2):  # between them: zeros
        formats.put(fmt, pages[token // 64], token % 64, *formats.with_a_nan(fmt, token // 2))
    case, numbers = each_slot_alone(kv_format, pages, np.arange(256), **alone)
    found = calls.run(case, backend, numbers).out[0]
    assert np.isnan(found[::2]).all()
    assert (found[1::2] == 0).all()


@pytest.mark.parametrize("descale", [0.0, 1e-30, 0.1, 1.0, 257.3, 2.0**100, -1.5, 1 / 3])
def test_every_code_with_one_scale_for_all(cpu, descale):
    """Likewise."""
    pages = np.arange(256, dtype=np.uint8).reshape(4, 64, 1, 1).repeat(576, 3)
    pages[pages & 0x7F == 0x7F] = 0x11
    case, numbers = each_slot_alone("fp8", pages, np.arange(256), descale)
    wanted = rows_of(case.main, pages)[:, :512]
    np.testing.assert_array_equal(calls.run(case, cpu, numbers).out[0, :, 0], wanted)


@pytest.mark.parametrize("descale", [np.inf, -np.inf, np.nan])
def test_a_scale_that_is_not_finite_makes_rows_nan(cpu, descale):
    """Also where all logits are -inf, which is not as if there were none."""
    for code in (0x38, 0xB8):  # 1 and -1
        pages = np.full((4, 64, 1, 576), code, np.uint8)
        case, numbers = each_slot_alone("fp8", pages, np.arange(3), descale)
        result = calls.run(case.but(given=("lse",)), cpu, replace(numbers, q=np.ones_like(numbers.q)))
        assert np.isnan(result.out).all()
        assert np.isnan(result.lse).all()


def test_two_caches_of_one_scale_each(cpu):
    """And one of them beside another format."""
    main, extra = Cache("fp8", topk=70, descale=0.013), Cache("fp8", topk=9, page_size=7, num_blocks=9, descale=-0.2)
    case = SparseCase(main=main, extra=extra, batch=2, s_q=2, h_q=16, given=("lse",), sink="some")
    for one in (case, case.but(extra=extra.but(kv_format="v32", descale=None)), case.but(extra=Cache(topk=9))):
        calls.check(one, cpu)


@pytest.mark.parametrize("kv_format", FORMATS)
def test_what_append_kv_writes_is_attended(backend, kv_format):
    """Tokens of all kinds of tiles: all zero, with the largest at the limit of a scale, of any magnitude."""
    skip_unless_read(backend, kv_format)
    fmt = formats.FORMATS.get(kv_format)
    write = WriteCase(kv_format, num_tokens=128, split=False, seed=3)
    latent = make_columns(write)
    latent[~np.isfinite(latent.astype(np.float32)).all(1)] = 1
    latent = np.clip(latent.astype(np.float32), -1e30, 1e30).astype(DTYPES["bfloat16"])
    slots = np.random.default_rng(4).permutation(4 * 64)[:128]
    dtype = DTYPES["uint8" if fmt else "bfloat16"]
    pages = np.zeros((4, 64, 1, fmt.token_bytes if fmt else write.columns), dtype)
    adapter = backend.adapter("c")
    kv_cache, rows = place(adapter, pages), place(adapter, latent)
    flashmla.append_kv(kv_cache, rows, None, adapter.place(slots), kv_format=kv_format)
    pages = adapter.to_numpy(kv_cache)
    # Each alone is what dequantize_kv reads, too.
    case, numbers = each_slot_alone(kv_format, pages, slots)
    found = calls.run(case, backend, numbers).out[0, :, 0]
    read = flashmla.dequantize_kv(np.ascontiguousarray(pages), kv_format=kv_format)
    wanted = read.astype(np.float32)[slots, :512]
    wanted[np.abs(wanted) < 2.0**-126] = 0
    np.testing.assert_array_equal(np.where(np.abs(found) < 2.0**-126, 0, found), wanted)
    # All together are what the oracle says of them.
    fair = np.abs(rows_of(case.main, pages)[slots]).max(1) < 1e3
    together = case.but(topk=int(fair.sum()), s_q=1, h_q=16)
    numbers = make_data(together)
    indices = slots[fair].astype(np.int32)[None, None]
    numbers = replace(numbers, caches={"": Selected(pages, indices, None)})
    norms = np.linalg.norm(numbers.q.astype(np.float64), axis=-1).max(), 1e3 * 24
    bound = calls.bound_of(together).at(norms[0] * norms[1] * together.d_qk**-0.5)
    calls.check_result(together, numbers, calls.run(together, backend, numbers), bound)


def place(adapter, array: np.ndarray):
    """A compact tensor of the adapter's framework; bfloat16 has no name there."""
    return Guarded(adapter, array.shape, array.dtype.name, values=array).tensor


@pytest.mark.parametrize("kv_format", FORMATS)
def test_within_the_tolerances_of_flashmla(backend, kv_format):
    """Its own data and bounds, tests/test_flash_mla_sparse_decoding.py of 9241ae3."""
    skip_unless_read(backend, kv_format)
    fmt = formats.FORMATS.get(kv_format)
    main = Cache(kv_format, num_blocks=30, topk=1024)
    case = SparseCase(main=main, d_qk=fmt.columns if fmt else 576, batch=2, s_q=2, h_q=64, given=("lse",), repeated=0.0)
    numbers = make_data(case)
    rng = np.random.default_rng(5)
    latent = np.clip(rng.standard_normal((main.slots, case.d_qk), np.float32) / 10, -1, 1)
    if fmt:
        pages = flashmla.quantize_kv(latent, kv_format=kv_format, page_size=64)
    else:
        pages = latent.astype(DTYPES["bfloat16"]).reshape(30, 64, 1, -1)
    q = np.clip(numbers.q.astype(np.float32), -1, 1).astype(DTYPES["bfloat16"])
    numbers = replace(numbers, q=q, caches={"": replace(numbers.caches[""], kv_cache=pages)})
    found, wanted = calls.run(case, backend, numbers), calls.reference(case, numbers)
    check_as_flashmla_does(found, wanted)


def check_as_flashmla_does(found: Result, wanted: Result) -> None:
    out = found.out.astype(np.float64)
    error = np.abs(out - wanted.out)
    assert np.all((error < 8e-4) | (error < 2.01 / 128 * np.abs(wanted.out)))
    products = (out * wanted.out).sum(), (out * out).sum() + (wanted.out * wanted.out).sum()
    assert 1 - 2 * products[0] / products[1] < 5e-6
    error = np.abs(found.lse - wanted.lse)
    assert np.all((error < 1e-6) | (error < 8.01 / 65536 * np.abs(wanted.lse)))
