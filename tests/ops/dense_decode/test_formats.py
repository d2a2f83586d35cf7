"""Caches that are quantised: dense_decode attends the rows that they hold, to the last bit of them."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest

import c_abi
import environment
import flashmla
from attention import same_bits
from backends import Backend
from buffers import DTYPES, PAGES
from gpu.kernel_rows import FORCE
from ops.append_kv import oracle as formats
from ops.dense_decode import calls
from ops.dense_decode.calls import Tensors, decode, make_plan
from ops.dense_decode.case import Case, Data, Layouts, keys_of, make_data
from ops.dense_decode.oracle import Shard
from ops.dense_decode.shape_only import STEP
from ops.merge_states.oracle import merge_states
from stub_driver.launches import decoded, family

BASE = Case(
    s_q=3, h_q=16, page_size=16, num_blocks=60, max_blocks=30, lengths=(470, 0, 33), causal=True, given=("lse",),
    bad_pages=True, layouts=Layouts(kv_cache=PAGES),
)  # fmt: skip


@pytest.fixture
def cpu(backend) -> Backend:
    if backend.name != "cpu":
        pytest.skip("of the CPU")
    return backend


def of_format(name: str, case: Case = BASE) -> Case:
    return case.but(kv_format=name, d_qk=formats.FORMATS[name].columns)


def dequantised(case: Case, data: Data) -> tuple[Case, Data]:
    """The call on a cache of the rows."""
    return on_rows(case, data, keys_of(case, data))


def on_rows(case: Case, data: Data, rows: np.ndarray) -> tuple[Case, Data]:
    kv_cache = rows.reshape(case.num_blocks, case.page_size, 1, case.d_qk).astype(DTYPES["bfloat16"])
    return case.but(kv_format="bf16", layouts=Layouts()), replace(data, kv_cache=kv_cache)


OPTIONS = {
    "causal": {},
    "not causal": {"causal": False},
    "splits": {"plan": "fresh", "num_splits": 5},
    "stale plan": {"plan": "stale"},
    "batch invariant": {"batch_invariant": True},
    "variable queries": {"cu_seqlens_q": (0, 3, 3, 5), "total_q": 6},
    "shard": {"shard": Shard(1, 2, 16), "global_seqlens": (900, 0, 60)},
    "sink": {"sink": "wild"},
    "lse": {"lse_base2": True, "empty_lse_minus": True, "out_dtype": "float32", "softmax_scale": 0.1},
    "many heads": {"h_q": 128, "s_q": 2},
    "pages of a token": {"page_size": 1, "num_blocks": 600, "max_blocks": 480},
    "pages of 7": {"page_size": 7, "num_blocks": 100, "max_blocks": 70},
}


@pytest.mark.parametrize("kv_format", formats.FORMATS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_bits_are_those_of_the_dequantised_cache(backend, kv_format, options):
    """On a GPU of the kernel that gathers rows as these kernels do; but codes with one scale it attends in float16."""
    case = of_format(kv_format).but(**options)
    numbers = make_data(case)
    result = calls.run(case, backend, numbers)
    calls.check_result(case, numbers, result)
    if kv_format == "fp8" and backend.name == "gpu":
        return
    rows, others = dequantised(case, numbers)
    if case.batch_invariant and backend.name == "gpu":  # no request is split
        rows = rows.but(batch_invariant=False, plan="fresh", num_splits=1)
    kernel = environment.variable(FORCE, f"dense_decode_bf16_{case.d_qk}_cluster1_gather")
    with kernel if backend.name == "gpu" else contextlib.nullcontext():
        same_bits(result, calls.run(rows, backend, others))


@pytest.mark.parametrize("kv_format", formats.FORMATS)
def test_any_bytes(backend, kv_format):
    """All codes with all kinds of scales, NaN and subnormal products among them. A request has one token, which is its
    row.
    """
    case = of_format(kv_format, BASE.but(s_q=1, h_q=1, page_size=64, num_blocks=32, bad_pages=False))
    case = case.but(lengths=(1,) * 32, max_blocks=1)
    numbers = make_data(case)
    rng = np.random.default_rng(3)
    pages = rng.integers(0, 256, numbers.kv_cache.shape, np.uint8)
    pages[4:][pages[4:] & 0x7F == 0x7F] = 0x11  # else there is a NaN in every row
    numbers = replace(numbers, kv_cache=pages, block_table=np.arange(32, dtype=np.int32)[:, None])
    numbers.q[:] = 0
    result = calls.run(case, backend, numbers)
    case, numbers = on_rows(case, numbers, flashmla.dequantize_kv(pages, kv_format=kv_format))
    wanted = calls.run(case, backend, numbers)
    assert np.isfinite(wanted.lse).any()
    np.testing.assert_array_equal(result.out.astype(np.float32), wanted.out.astype(np.float32))
    np.testing.assert_array_equal(result.lse, wanted.lse)


@pytest.mark.parametrize("page_size", [64, 16])  # on a GPU, boxes and rows
@pytest.mark.parametrize("kv_format", formats.FORMATS)
def test_one_nan_spoils_its_row_alone(backend, kv_format, page_size):
    """A request has one token, every other of which holds a NaN."""
    case = of_format(kv_format, BASE.but(s_q=1, h_q=1, page_size=page_size, num_blocks=256, bad_pages=False))
    case = case.but(lengths=(1,) * 256, max_blocks=1)
    numbers, fmt = make_data(case), formats.FORMATS[kv_format]
    pages = np.zeros_like(numbers.kv_cache)
    for request in range(0, 256, 2):
        formats.put(fmt, pages[request], 0, *formats.with_a_nan(fmt, request // 2))
    table = np.arange(256, dtype=np.int32)[:, None]
    numbers = replace(numbers, q=np.zeros_like(numbers.q), kv_cache=pages, block_table=table)
    out = calls.run(case, backend, numbers).out.astype(np.float32)
    assert np.isnan(out[::2]).all()
    assert (out[1::2] == 0).all()


@pytest.mark.parametrize("kv_format", formats.FORMATS)
def test_page_size_does_not_show(backend, kv_format):
    """The same tokens in pages of 64 and of one."""
    case = of_format(kv_format, BASE.but(page_size=64, num_blocks=8, max_blocks=8, lengths=(400, 77), bad_pages=False))
    numbers = make_data(case)
    rng = np.random.default_rng(4)
    latent = rng.standard_normal((8 * 64, case.d_qk), np.float32)
    made = {size: flashmla.quantize_kv(latent, kv_format=kv_format, page_size=size) for size in (64, 2)}
    tokens = {64: rng.permutation(8)[None].repeat(2, 0).astype(np.int32)}
    tokens[2] = (tokens[64][:, :, None] * 32 + np.arange(32)).reshape(2, -1).astype(np.int32)
    results = []
    for size, pages in made.items():
        one = case.but(page_size=size, num_blocks=len(pages), max_blocks=tokens[size].shape[1])
        data = replace(numbers, kv_cache=pages, block_table=tokens[size])
        results.append(calls.run(one, backend, data))
        calls.check_result(one, data, results[-1])
    same_bits(*results)


def test_a_plan_serves_caches_of_every_format(cpu):
    """Its stamp holds what the schedule follows from, and that is not how tokens lie."""
    plans = {}
    for name in formats.FORMATS:
        quantised = of_format(name, BASE.but(plan="fresh"))
        numbers = make_data(quantised)
        case, others = dequantised(quantised, numbers)
        plans[name] = make_plan(Tensors(case, cpu, others)), make_plan(Tensors(quantised, cpu, numbers))
        results = [
            decode(Tensors(one, cpu, data), plan)
            for one, data in ((case, others), (quantised, numbers))
            for plan in plans[name]
        ]
        for result in results[1:]:
            same_bits(results[0], result)
    other = of_format("v41", BASE.but(plan="fresh"))
    calls.check_result(other, make_data(other), decode(Tensors(other, cpu), plans["v32_nope"][0]))


def test_shards_join_to_the_whole(backend):
    whole = of_format("v32", BASE.but(lengths=(450,), causal=True, bad_pages=False, max_blocks=30))
    numbers = make_data(whole)
    rng = np.random.default_rng(5)
    latent = rng.standard_normal((480, 576), np.float32)
    parts = []
    for rank in range(2):
        shard = Shard(rank, 2, 16)
        tokens = shard.global_tokens(240)
        pages = flashmla.quantize_kv(latent[tokens], kv_format="v32", page_size=16)
        count = int(np.sum(tokens < 450))
        case = whole.but(num_blocks=15, max_blocks=15, lengths=(count,), shard=shard, global_seqlens=(450,))
        data = replace(
            numbers,
            kv_cache=pages,
            block_table=np.arange(15, dtype=np.int32)[None],
            cache_seqlens=np.array([count], np.int32),
            global_seqlens=np.array([450], np.int32),
        )
        parts.append(calls.run(case.but(out_dtype="float32"), backend, data))
    case = whole.but(num_blocks=30, out_dtype="float32")
    data = replace(
        numbers,
        kv_cache=flashmla.quantize_kv(latent, kv_format="v32", page_size=16),
        block_table=np.arange(30, dtype=np.int32)[None],
    )
    out, lse = merge_states([part.out for part in parts], [part.lse for part in parts])
    calls.check_result(case, data, calls.Result(out.astype(np.float32), lse.astype(np.float32)))


def test_a_prepared_call(cpu):
    case = of_format("model1")
    numbers = make_data(case)
    tensors = Tensors(case.but(route="numpy", given=()), cpu, numbers)
    inputs, options = tensors.package_inputs(), tensors.package_options() | tensors.package_decode_options()
    prepared = flashmla.prepare(flashmla.dense_decode, *inputs, **options)
    out, lse = prepared(q=inputs[0])
    wanted, wanted_lse = flashmla.dense_decode(*inputs, **options)
    assert out.tobytes() == wanted.tobytes()
    assert lse.tobytes() == wanted_lse.tobytes()


@pytest.mark.parametrize("kv_format", formats.FORMATS)
def test_batch_invariant_calls_split_no_request(cuda_12_0, kv_format):
    """The same kernel on whole tiles, with nothing to join; a plan of rows that are not quantised is for others."""
    case = of_format(kv_format, STEP.but(layouts=Layouts(kv_cache=PAGES)))
    whole = case.but(batch_invariant=True)
    ran = cuda_12_0.run(
        f"from buffers import Layout, Pages; decode({case!r}); decode({whole!r}); "
        f"decode({whole!r}, plan=plan({whole!r})); "
        f"decode({whole!r}, plan=plan({whole.but(kv_format='bf16', layouts=Layouts())!r}))"
    )
    loads = "gather_" if formats.FORMATS[kv_format].split else ""  # else codes come by TMA
    for told in (*ran.told[:2], ran.told[3]):
        assert told[3] == f"dense_decode_bf16_{case.d_qk}_cluster1_{loads}{kv_format}"
    assert ran.told[-1][0] == c_abi.constant("ERROR_PLAN_MISMATCH")
    assert "formats that quantise and others have plans of their own" in ran.told[-1][1]
    names = [family(launch["kernel"]) for launch in ran.launches()]
    assert names == ["plan", "dense_decode", "combine", *["plan", "dense_decode"] * 2, "plan"]
    for launch in ran.launches()[3:7:2]:
        found = decoded(launch)
        assert (found["num_splits"], found["num_parts"], found["piece_units"]) == (1, found["num_tiles"], 0)
