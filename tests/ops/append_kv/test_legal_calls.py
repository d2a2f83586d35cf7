"""append_kv: any tokens, in any layout, put into any slots of any format, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import c_abi
import flashmla
from buffers import Pages
from ops.append_kv import calls, oracle, strategies
from ops.append_kv.calls import WriteCase
from properties import share, shown_if_it_fails


@share(1 / 2)
@given(data=st.data())
def test_any_tokens_are_written_as_the_oracle_says(backend, data):
    case = data.draw(strategies.writes(backend))
    with shown_if_it_fails(case):
        calls.check(case, backend)


@pytest.mark.parametrize("kv_format", strategies.FORMATS)
@pytest.mark.parametrize("slot_dtype", ["int32", "int64"])
def test_many_tokens_some_of_one_slot(backend, kv_format, slot_dtype):
    """More than are compared with each other on a GPU, and enough for several threads of a CPU."""
    for repeated in (0.3, 1.0):
        case = WriteCase(kv_format, num_tokens=700, num_blocks=15, page_size=53, slot_dtype=slot_dtype)
        calls.check(case.but(repeated=repeated, num_threads=4, seed=7, cache_layout=Pages(gaps=(1,))), backend)


@pytest.mark.parametrize("num_tokens", [1, 31, 512, 513, 2000])
def test_all_tokens_name_one_slot(backend, num_tokens):
    for kv_format in ("bf16", "v32", "model1"):
        case = WriteCase(kv_format, num_tokens=num_tokens, slots=(5,) * num_tokens, num_threads=3)
        calls.check(case, backend)


@pytest.mark.parametrize("kv_format", strategies.FORMATS)
def test_slots_outside_are_skipped(backend, kv_format):
    for slots in ((-1,) * 5, (12, 13, 2**40, -(2**62), -12)):
        calls.check(WriteCase(kv_format, slots=slots), backend)


@pytest.mark.parametrize("kv_format", strategies.FORMATS)
def test_no_tokens(backend, kv_format):
    calls.check(WriteCase(kv_format, num_tokens=0), backend)


@pytest.mark.parametrize("kv_format", strategies.FORMATS)
def test_a_repeated_row(backend, kv_format):
    """Strides of what is only read may be 0."""
    tokens = calls.Tokens(WriteCase(kv_format, slots=(3, 4, 9, -1, 0)), backend)
    tokens.columns[:] = tokens.columns[0]
    tokens.place_slots()
    call = tokens.c_call("append_kv", "kv_cache")
    for name in ("latent", "rope"):
        call.tensor(name).strides[0] = 0
    assert call.run() == 0, c_abi.last_error()
    tokens.check_written(tokens.slots)


def test_one_slot_for_all_by_a_stride_of_0(backend):
    tokens = calls.Tokens(WriteCase(slots=(7,) * 5), backend)
    tokens.place_slots()
    call = tokens.c_call("append_kv", "kv_cache")
    call.tensor("slot_mapping").strides[0] = 0
    assert call.run() == 0, c_abi.last_error()
    tokens.check_written(tokens.slots)


@pytest.mark.parametrize("kv_format", oracle.FORMATS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_number_of_16_bits(backend, kv_format, dtype):
    """Each as the largest of a tile, which decides the scale, and with others beside it."""
    if dtype not in backend.dtypes:
        pytest.skip("not on this backend")
    case = WriteCase(kv_format, dtype, num_tokens=256, num_blocks=4, page_size=64, slots=tuple(range(256)), split=False)
    tokens = calls.Tokens(case, backend)
    bits = np.resize(np.arange(0, 2**16, 7), (256, case.columns)).astype(np.uint16)
    values = bits.view(calls.DTYPES["float16" if dtype == "float16" else "bfloat16"])
    tokens.columns = values.astype(calls.DTYPES[dtype]) if dtype == "float32" else values
    tokens.inputs["latent"] = calls.Guarded(tokens.adapter, bits.shape, dtype, values=tokens.columns)
    tokens.place_slots()
    assert tokens.c_call("append_kv", "kv_cache").run() == 0, c_abi.last_error()
    tokens.check_written(tokens.slots)


@pytest.mark.parametrize("kv_format", strategies.FORMATS)
def test_latent_may_have_any_share_of_the_columns(backend, kv_format):
    tokens = calls.Tokens(WriteCase(kv_format, slots=(1, 2, 3, 4, 5)), backend)
    tokens.place_slots()
    for border in (16, 256, tokens.case.columns - 16):
        for name, part in (("latent", tokens.columns[:, :border]), ("rope", tokens.columns[:, border:])):
            tokens.inputs[name] = calls.Guarded(tokens.adapter, part.shape, "bfloat16", values=part)
        assert tokens.c_call("append_kv", "kv_cache").run() == 0, c_abi.last_error()
        tokens.check_written(tokens.slots)


@pytest.mark.parametrize("kv_format", strategies.FORMATS)
def test_a_cache_of_more_than_2_to_the_32_bytes(kv_format, tmp_path):
    """In a file with holes: slots on both sides of 2^31 and 2^32 bytes, and the last one, are written and read."""
    width = 2 * 576 if kv_format == "bf16" else oracle.FORMATS[kv_format].token_bytes
    num_blocks = (2**32 + 2**28) // (64 * width)
    kind, columns = (np.float16, 576) if kv_format == "bf16" else (np.uint8, width)
    cache = np.memmap(tmp_path / "cache", kind, "w+", shape=(num_blocks, 64, 1, columns))
    pages = [0, 2**31 // (64 * width), 2**32 // (64 * width), num_blocks - 1]
    slots = np.array([64 * page + row for page in pages for row in (0, 63)])
    rows = WriteCase(kv_format).columns
    latent = np.random.default_rng(1).standard_normal((len(slots), rows)).astype(np.float16)
    options = {"kv_format": kv_format}
    if kv_format == "fp8":
        options["descale_k"] = np.array([strategies.SMALL], np.float32)
    flashmla.append_kv(cache.view(np.ndarray), latent, None, slots, **options)
    table, offsets = np.array([pages], np.int32), np.array([0, 256], np.int32)
    found = flashmla.gather_kv(cache.view(np.ndarray), table, offsets, 256, out_dtype="float16", **options)
    written = [64 * i + row for i in range(4) for row in (0, 63)]
    np.testing.assert_allclose(found[written], latent, rtol=1 / 15, atol=2.0**-15)
    assert np.count_nonzero(found) <= latent.size
    assert np.count_nonzero(np.delete(found, written, 0)) == 0


@pytest.mark.parametrize("descale", [0, 1e-45, 1e-38, 0.1, 1, -1.5, 255, 2.0**100, 3e38, np.inf, np.nan])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_number_of_16_bits_with_one_scale_for_all(backend, descale, dtype):
    if dtype not in backend.dtypes:
        pytest.skip("not on this backend")
    case = WriteCase("fp8", dtype, num_tokens=128, num_blocks=2, page_size=64, slots=tuple(range(128)), split=False)
    case = case.but(d_qk=512, descale=float(descale))
    tokens = calls.Tokens(case, backend)
    bits = np.arange(2**16, dtype=np.uint16).reshape(128, 512)
    values = bits.view(calls.DTYPES["float16" if dtype == "float16" else "bfloat16"])
    tokens.columns = values.astype(calls.DTYPES[dtype])
    tokens.inputs["latent"] = calls.Guarded(tokens.adapter, bits.shape, dtype, values=tokens.columns)
    tokens.place_slots()
    assert tokens.c_call("append_kv", "kv_cache").run() == 0, c_abi.last_error()
    tokens.check_written(tokens.slots)


def test_codes_come_back_whatever_the_scale(backend):
    """What dequantize_kv gives of a code, append_kv makes the code of."""
    route = next(route for route, adapter in backend.adapters.items() if adapter.writable)
    adapter = backend.adapter(route)
    codes = np.delete(np.arange(256, dtype=np.uint8), [0x7F, 0xFF]).repeat(16).reshape(1, 254, 1, 16)
    for descale in (1.0, 0.0123, 2.0**-20, 2.0**100, -3.0):
        one = adapter.place(np.array([descale], np.float32))
        given = calls.Guarded(adapter, codes.shape, "uint8", values=codes).tensor
        rows = flashmla.dequantize_kv(given, kv_format="fp8", descale_k=one, out_dtype="float32")
        if "float32" not in backend.dtypes:
            rows = flashmla.dequantize_kv(given, kv_format="fp8", descale_k=one)
        back = adapter.to_numpy(flashmla.quantize_kv(rows, kv_format="fp8", descale_k=one))
        np.testing.assert_array_equal(back.reshape(codes.shape), codes)
