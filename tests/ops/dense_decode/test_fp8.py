"""Caches of codes with one scale for all, and queries that are such codes: scales are applied to sums, exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flashmla
from attention import same_bits
from buffers import DTYPES, PAGES
from ops.append_kv import oracle as formats
from ops.dense_decode import calls, strategies
from ops.dense_decode.calls import Tensors
from ops.dense_decode.case import ON_GPUS, Case, Layouts, make_data
from properties import share, shown_if_it_fails

BASE = Case(
    s_q=3, h_q=16, page_size=16, num_blocks=60, max_blocks=30, lengths=(470, 0, 33), causal=True, given=("lse",),
    bad_pages=True, layouts=Layouts(kv_cache=PAGES), kv_format="fp8", descale_k=0.013,
)  # fmt: skip
CODED = BASE.but(q_dtype="float8_e4m3fn", descale_q=0.007)


@share(1 / 4)
@given(data=st.data())
def test_any_legal_call_is_the_oracle(backend, data):
    case = data.draw(strategies.cases(backend, kv_formats=("fp8",)))
    with shown_if_it_fails(case):
        calls.check(case, backend)


OPTIONS = {
    "as it is": {},
    "no scales": {"descale_q": None, "descale_k": None},
    "negative": {"descale_q": -0.01, "descale_k": -0.3},
    "splits": {"plan": "fresh", "num_splits": 5},
    "stale plan": {"plan": "stale"},
    "batch invariant": {"batch_invariant": True},
    "variable queries": {"cu_seqlens_q": (0, 3, 3, 5), "total_q": 6},
    "sink": {"sink": "wild"},
    "window": {"window": 70},
    "lse": {"lse_base2": True, "empty_lse_minus": True, "out_dtype": "float32", "softmax_scale": 0.1},
    "many heads": {"h_q": 128},
    "long": {"lengths": (19_999,), "page_size": 64, "num_blocks": 313, "max_blocks": 313, "h_q": 2},
}


@pytest.mark.parametrize("base", [BASE, CODED], ids=["bfloat16 q", "coded q"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("d_qk", ON_GPUS)
def test_options(backend, base, options, d_qk):
    own = {name: value for name, value in options.items() if name != "descale_q" or base.q_dtype}
    calls.check(base.but(d_qk=d_qk, **own), backend)


def test_bits_of_codes_are_those_of_bfloat16(backend):
    """q as codes, and as the numbers that they are."""
    for dtype in ("float8_e4m3fn", "uint8", "int8"):
        coded = CODED.but(q_dtype=dtype, descale_q=None)
        numbers = make_data(coded)
        q = formats.E4M3[numbers.q.view(np.uint8)].astype(DTYPES["bfloat16"])
        wanted = calls.run(BASE, backend, replace(numbers, q=q))
        same_bits(calls.run(coded, backend, numbers), wanted)


@pytest.mark.parametrize("base", [BASE, CODED], ids=["bfloat16 q", "coded q"])
@pytest.mark.parametrize("splits", [0, 4])
def test_scales_are_the_softmax_scale_and_a_factor_of_values(backend, base, splits):
    """By powers of two, to the last bit; the sign of the cache's is that of values, too."""
    case = base.but(descale_k=-0.125, out_dtype="float32", plan="fresh", num_splits=splits)
    case = case.but(descale_q=0.5) if base.q_dtype else case
    numbers = make_data(case)
    found = calls.run(case, backend, numbers)
    codes = np.where(numbers.kv_cache.view(np.uint8) & 0x7F == 0x7F, 0, numbers.kv_cache.view(np.uint8) ^ 0x80)
    scale = 0.125 * (case.descale_q or 1)
    plain = case.but(descale_q=None, descale_k=None, softmax_scale=float(np.float32(case.d_qk**-0.5)) * scale)
    others = replace(numbers, descale_q=None, descale_k=None, kv_cache=codes.astype(np.uint8))
    wanted = calls.run(plain, backend, others)
    np.testing.assert_array_equal(found.out, wanted.out / 8)
    np.testing.assert_array_equal(found.lse, wanted.lse)


SCALES = (0.0, 2.0**-100, 1e-25, 0.1, 257.3, 2.0**100, 7e29, -1.5)


def one_token(descale: float) -> tuple[Case, calls.Data]:
    """256 requests, each with a token of one code; q is of ones, in one head of zeros too."""
    case = BASE.but(
        s_q=1, h_q=2, page_size=1, num_blocks=256, max_blocks=1, lengths=(1,) * 256, bad_pages=False, descale_k=descale,
        out_dtype="float32", causal=False, softmax_scale=0.5, layouts=Layouts(),
    )  # fmt: skip
    numbers = make_data(case)
    codes = np.arange(256, dtype=np.uint8)
    kv_cache = np.broadcast_to(codes[:, None, None, None], numbers.kv_cache.shape).copy()
    numbers = replace(numbers, kv_cache=kv_cache, block_table=np.arange(256, dtype=np.int32)[:, None])
    numbers.q[:, :, 0], numbers.q[:, :, 1] = 1, 0
    return case, numbers


@pytest.mark.parametrize("descale", SCALES)
def test_every_code_with_every_kind_of_scale(backend, descale):
    """Logits beyond 2^30 a GPU's softmax does not resolve, and its weights are bfloat16."""
    case, numbers = one_token(descale)
    if backend.name == "gpu" and descale > 2.0**30:
        numbers.q[:] = 0
    result = calls.run(case, backend, numbers)
    exact = formats.E4M3 * float(np.float32(descale))
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = np.repeat(exact.astype(np.float32)[:, None], 512, 1)
        np.testing.assert_allclose(result.out[:, 0, 0], wanted, rtol=2.0**-9 if backend.name == "gpu" else 0)
        np.testing.assert_array_equal(result.out[:, 0, 1], wanted)
        if not numbers.q.any():
            return
        np.testing.assert_allclose(result.lse[:, 0, 0], (0.5 * 576 * exact).astype(np.float32), rtol=1e-6, atol=1e-27)
        np.testing.assert_array_equal(result.lse[:, 1, 0], np.where(np.isnan(exact), np.nan, 0).astype(np.float32))


@pytest.mark.parametrize("descale", [2.0**118, -257.3, 2.0**-115])
@pytest.mark.parametrize("out_dtype", [None, "float32"])
def test_any_scale_where_rows_are_split(backend, descale, out_dtype):
    """Of equal logits, which a large scale would make too unlike."""
    case = BASE.but(plan="fresh", num_splits=5, descale_k=descale, out_dtype=out_dtype)
    numbers = make_data(case)
    numbers = replace(numbers, q=np.zeros_like(numbers.q))
    calls.check_result(case, numbers, calls.run(case, backend, numbers))


@pytest.mark.parametrize("descale", [1e-45, -1e-39])
def test_a_subnormal_scale_counts_as_zero(backend, descale):
    """Or, on a GPU, as what it is."""
    case, numbers = one_token(descale)
    result = calls.run(case, backend, numbers)
    finite = np.isfinite(formats.E4M3)
    assert np.abs(result.out[finite]).max() <= (448 * abs(np.float32(descale)) if backend.name == "gpu" else 0)
    np.testing.assert_allclose(result.lse[finite], 0, atol=1e-27)
    assert np.isnan(result.out[~finite]).all()


@pytest.mark.parametrize("name", ["descale_q", "descale_k"])
@pytest.mark.parametrize("descale", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("splits", [0, 4])
def test_a_scale_that_is_not_finite(backend, name, descale, splits):
    """Makes every row NaN that attends anything."""
    base = (CODED if name == "descale_q" else BASE).but(plan="fresh", num_splits=splits)
    case, numbers = base.but(**{name: descale}), make_data(base)
    setattr(numbers, name, np.array([descale], np.float32))
    result = calls.run(case, backend, numbers)
    assert np.isnan(result.out[[0, 2]].astype(np.float32)).all()
    assert np.isnan(result.lse[[0, 2]]).all()
    assert not result.out[1].astype(np.float32).any()
    assert np.isposinf(result.lse[1]).all()


@pytest.mark.parametrize("base", [BASE, CODED], ids=["bfloat16 q", "coded q"])
def test_nothing_is_rounded(backend, base):
    """What a cache of bfloat16 would make of the products shows in lse."""
    case = base.but(bad_pages=False, out_dtype="float32")
    numbers = make_data(case)
    _, wanted = calls.reference(case, numbers)
    result = calls.run(case, backend, numbers)
    live = np.isfinite(wanted)
    np.testing.assert_allclose(result.lse[live], wanted[live], rtol=0, atol=3e-6)


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_prepared_calls_read_the_scales_of_each_run(backend, framework):
    if framework not in backend.adapters:
        pytest.skip(f"no {framework} on this backend")
    case = CODED.but(route=framework, q_dtype="uint8", given=(), layouts=Layouts())
    tensors = Tensors(case, backend)
    inputs, options = tensors.package_inputs(), tensors.package_options() | tensors.package_decode_options()
    prepared = flashmla.prepare(flashmla.dense_decode, *inputs, **options)
    for descale in (0.25, -3.0):
        one = tensors.adapter.place(np.array([descale], np.float32))
        found = prepared(q=inputs[0], descale_k=one)
        wanted = flashmla.dense_decode(*inputs, **options | {"descale_k": one})
        for made, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(
                *(tensors.adapter.to_numpy(tensor).astype(np.float32) for tensor in (made, other))
            )


def test_out_that_is_made_is_bfloat16(backend):
    case = CODED.but(route="numpy", q_dtype="uint8", given=(), layouts=Layouts())
    tensors = Tensors(case, backend)
    options = tensors.package_options() | {"descale_k": tensors.guarded["descale_k"].tensor}
    out, _ = flashmla.dense_decode(*tensors.package_inputs(), **options)
    assert str(out.dtype).endswith("bfloat16")
