"""The CPU backend's instruction sets: each can be forced and is right, or the best that the machine has is taken."""

import re

import ml_dtypes
import numpy as np
import pytest

import build
import flashmla
import small
from flashmla._info import report
from flashmla._library import ffi, lib
from isas import NAMES as ISAS


def chosen():
    return ffi.string(lib.flashmla_cpu_isa()).decode()


@pytest.fixture
def best(monkeypatch):
    monkeypatch.delenv("FLASHMLA_CPU_ISA", raising=False)
    return chosen()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", small.DTYPES)
# Row counts on both sides of every register tile; 129 rows are two row blocks.
@pytest.mark.parametrize(
    ("s_q", "h_q"), [(1, 1), (1, 3), (1, 8), (3, 3), (1, 16), (1, 23), (2, 37), (1, 128), (1, 129)]
)
def test_forced_set_is_right(isa, dtype, s_q, h_q, best, monkeypatch):
    monkeypatch.setenv("FLASHMLA_CPU_ISA", isa)
    assert chosen() == min(isa, best, key=ISAS.index)
    arrays = small.inputs(dtype, lengths=(1, 128), s_q=s_q, h_q=h_q)
    small.check(*flashmla.dense_decode(*arrays, causal=True), arrays, causal=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("d_qk", [512, 320, 288, 160, 1088])
@pytest.mark.parametrize(("s_q", "h_q"), [(1, 1), (1, 8), (2, 37), (1, 129)])
def test_other_head_dimensions_are_right(isa, dtype, d_qk, s_q, h_q, monkeypatch):
    monkeypatch.setenv("FLASHMLA_CPU_ISA", isa)
    arrays = small.inputs(dtype, lengths=(1, 128), s_q=s_q, h_q=h_q, d_qk=d_qk)
    small.check(*flashmla.dense_decode(*arrays, causal=True), arrays, causal=True)


def test_unknown_name_means_the_best(best, monkeypatch):
    monkeypatch.setenv("FLASHMLA_CPU_ISA", "sse9")
    assert chosen() == best
    assert flashmla.info()["environment_error"].startswith('FLASHMLA_CPU_ISA is "sse9"; it must be one of ')
    assert 'warning   FLASHMLA_CPU_ISA is "sse9"' in report()
    monkeypatch.delenv("FLASHMLA_CPU_ISA")
    assert flashmla.info()["environment_error"] is None
    assert "warning" not in report()


def test_calls_read_no_environment():
    """A thread may be in setenv beside them."""
    found = {path.name for path in build.SOURCE.rglob("*.[ch]") if re.search(r"\bgetenv\(", path.read_text())}
    assert found == {"environment.c"}


def round_trip(values, dtype):
    """The values as one token's latent: attention over one token returns its first 512 components."""
    cache = np.zeros((1, 1, 1, 576), dtype)
    cache[0, 0, 0, : values.size] = values
    table = np.zeros((1, 1), np.int32)
    q = np.zeros((1, 1, 1, 576), dtype)
    return flashmla.dense_decode(q, cache, table, np.ones(1, np.int32))[0].reshape(-1)[: values.size]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_every_finite_16_bit_number_survives(isa, dtype, monkeypatch):
    """But the subnormal ones of bfloat16, which are subnormal in float32, too."""
    monkeypatch.setenv("FLASHMLA_CPU_ISA", isa)
    numbers = np.arange(2**16, dtype=np.uint16).view(dtype)
    wide = np.abs(numbers.astype(np.float32))
    numbers = numbers[np.isfinite(wide) & ((wide == 0) | (wide >= 2.0**-126))]
    for part in np.array_split(numbers, numbers.size // 512 + 1):
        np.testing.assert_array_equal(round_trip(part, dtype).astype(np.float32), part.astype(np.float32))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_rounding_is_to_nearest_even(isa, dtype, monkeypatch):
    """Two tokens of equal weight: the result is the mean of neighbours, which lies halfway between two numbers."""
    monkeypatch.setenv("FLASHMLA_CPU_ISA", isa)
    # Sums of weights times values are float32: values whose sum overflows it are out of reach, and bfloat16 has some.
    largest = np.finfo(np.float16).max if dtype == np.float16 else np.float32(2.0**126)
    last = int(np.array(largest, dtype).view(np.uint16))
    low = np.random.default_rng(0).integers(0, last, 512).astype(np.uint16)
    low[:3] = 0, 1, last - 1
    if dtype != np.float16:
        low[low < 0x80] = 0x80  # smaller ones are subnormal in float32, too, and count as 0
    pair = np.stack([low, low + 1]).view(dtype)
    cache = np.zeros((1, 2, 1, 576), dtype)
    cache[0, :, 0, :512] = pair
    q = np.zeros((1, 1, 1, 576), dtype)
    out, _ = flashmla.dense_decode(q, cache, np.zeros((1, 1), np.int32), np.full(1, 2, np.int32))
    mean = pair.astype(np.float64).mean(0)
    np.testing.assert_array_equal(out.reshape(-1).astype(np.float64), mean.astype(dtype).astype(np.float64))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", small.DTYPES.values())
def test_nan_that_is_attended_stays_nan(isa, dtype, monkeypatch):
    monkeypatch.setenv("FLASHMLA_CPU_ISA", isa)
    assert np.isnan(round_trip(np.array([np.nan], dtype), dtype).astype(np.float32)).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e4, 1e30])
def test_logits_of_any_magnitude(isa, scale, monkeypatch):
    """Tiny scales give the mean, huge ones the value of the token with the largest logit."""
    monkeypatch.setenv("FLASHMLA_CPU_ISA", isa)
    arrays = small.inputs("float32", lengths=(100,), s_q=1, h_q=20)
    small.check(*flashmla.dense_decode(*arrays, softmax_scale=scale), arrays, softmax_scale=scale)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", small.DTYPES)
@pytest.mark.parametrize("h_q", [1, 5, 8, 16, 23])
@pytest.mark.parametrize("other", [np.nan, -np.inf])
def test_what_is_not_finite_shows_in_rows_that_attend_it_alone(isa, dtype, h_q, other, monkeypatch):
    """A logit of -inf leaves the row finite but for 0 * inf, in the column of the value."""
    monkeypatch.setenv("FLASHMLA_CPU_ISA", isa)
    q, kv_cache, block_table, lengths = small.inputs(dtype, lengths=(101,), s_q=3, h_q=h_q)
    q[..., 8] = 1
    before, _ = flashmla.dense_decode(q, kv_cache, block_table, lengths, causal=True)
    kv_cache[block_table[0, 1], 99 - 64, 0, 8] = other  # the query tokens attend 99, 100 and 101 tokens
    out, lse = flashmla.dense_decode(q, kv_cache, block_table, lengths, causal=True)
    assert out[:, 0].tobytes() == before[:, 0].tobytes()
    columns = np.flatnonzero(np.isnan(out[:, 1:].astype(np.float32)).all((0, 1, 2)))
    assert columns.tolist() == (list(range(512)) if np.isnan(other) else [8])
    assert np.isnan(lse[..., 1:]).all() == np.isnan(other)


@pytest.mark.parametrize("dtype", small.DTYPES)
@pytest.mark.parametrize("h_q", [1, 16, 37])
def test_page_sizes_and_places_do_not_change_bits(dtype, h_q):
    """Whether the keys of a step lie at equal distances, or at multiples of 64 bytes."""
    q, kv_cache, block_table, lengths = small.inputs(dtype, lengths=(128, 77), s_q=2, h_q=h_q)
    rows = kv_cache[block_table].reshape(2, 128, 1, 576)
    want = [array.tobytes() for array in flashmla.dense_decode(q, kv_cache, block_table, lengths, causal=True)]
    for page, room in ((1, 576), (16, 576), (32, 584), (128, 640)):
        pages = 128 // page
        table = np.random.default_rng(page).permutation(2 * pages).astype(np.int32).reshape(2, pages)
        cache = np.empty((2 * pages, page, 1, room), rows.dtype)
        cache[table, ..., :576] = rows.reshape(2, pages, page, 1, 576)
        got = flashmla.dense_decode(q, cache[..., :576], table, lengths, causal=True)
        assert [array.tobytes() for array in got] == want, (page, room)
