"""The CPU backend computes in a floating-point mode of its own: to nearest, without subnormal numbers.

tests/c/library/test_workers.c shows that the caller's mode is there again afterwards.
"""

import ctypes
import platform

import ml_dtypes
import numpy as np
import pytest

import flashmla
import small
from isas import NAMES as ISAS

ROUNDINGS = {"upward": 0x800, "downward": 0x400, "towards zero": 0xC00}  # of x86's <fenv.h>


def bits(result):
    return [np.asarray(array).tobytes() for array in result]


def with_subnormals(array, value, draw):
    """The array with a subnormal number, or another one, in some places of each row and in all of some columns."""
    array = array.copy()
    array[..., 7:9] = value
    rows = array.reshape(-1, array.shape[-1])
    for row in rows:
        row[draw.integers(0, array.shape[-1], 20)] = value
    return array


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("h_q", [1, 8, 33])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_subnormal_numbers_count_as_zeros(isa, h_q, dtype, monkeypatch):
    """Arithmetic that meets them takes up to a hundred times as long on many CPUs."""
    monkeypatch.setenv("FLASHMLA_CPU_ISA", isa)
    q, kv_cache, *rest = small.inputs(dtype, s_q=1, h_q=h_q)
    results = []
    for value in (1e-39, -1e-39, 0.0):
        draw = np.random.default_rng(1)
        arrays = (with_subnormals(q, value, draw), with_subnormals(kv_cache, value, draw), *rest)
        results.append([np.asarray(array, np.float32) + 0.0 for array in flashmla.dense_decode(*arrays)])  # -0 is 0
    small.check(*flashmla.dense_decode(*arrays), arrays)
    for result in results:
        assert bits(result) == bits(results[-1])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_subnormal_numbers_of_parts_count_as_zeros(isa, dtype, monkeypatch):
    monkeypatch.setenv("FLASHMLA_CPU_ISA", isa)
    draw = np.random.default_rng(1)
    outs = draw.standard_normal((3, 2, 1, 4, 64)).astype(dtype)
    outs[..., :5] = 1e-39
    lses = draw.standard_normal((3, 2, 4, 1)).astype(np.float32)
    out, lse = flashmla.merge_states(outs, lses, out_dtype="float32")
    zeros = outs.copy()
    zeros[..., :5] = 0
    assert bits((out, lse)) == bits(flashmla.merge_states(zeros, lses, out_dtype="float32"))


@pytest.mark.parametrize("isa", ISAS)
def test_results_that_are_too_small_are_zeros(isa, monkeypatch):
    """Half of a number near the smallest one, as the mean of it and of zero."""
    monkeypatch.setenv("FLASHMLA_CPU_ISA", isa)
    cache = np.zeros((1, 2, 1, 576), np.float32)
    cache[0, 0] = 1.5 * 2.0**-126
    out, _ = flashmla.dense_decode(
        np.zeros((1, 1, 1, 576), np.float32), cache, np.zeros((1, 1), np.int32), np.full(1, 2, np.int32)
    )
    assert not out.any()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of the modes are those of x86")
@pytest.mark.parametrize("mode", ROUNDINGS)
@pytest.mark.parametrize("isa", ISAS)
def test_results_do_not_depend_on_the_callers_rounding(mode, isa, monkeypatch):
    monkeypatch.setenv("FLASHMLA_CPU_ISA", isa)
    libm = ctypes.CDLL("libm.so.6")
    arrays = small.inputs("bfloat16", lengths=(128, 77), s_q=2, h_q=20)
    draw = np.random.default_rng(1)
    outs, lses = draw.standard_normal((3, 2, 1, 4, 64)), draw.standard_normal((3, 2, 4, 1))
    outs, lses = outs.astype(np.float32), lses.astype(np.float32)

    def results():
        plan = flashmla.plan_decode(*arrays, num_splits=2)
        prepared = flashmla.prepare(flashmla.dense_decode, *arrays, softmax_scale=0.3125)  # exact in float32
        return [
            bits(result)
            for result in (
                flashmla.dense_decode(*arrays),
                flashmla.dense_decode(*arrays, softmax_scale=3.25, lse_base2=True, num_threads=3),
                flashmla.dense_decode(*arrays, plan=plan),
                prepared(),
                flashmla.merge_states(outs, lses, num_threads=2),
            )
        ]

    expected = results()
    assert libm.fesetround(ROUNDINGS[mode]) == 0
    try:
        changed = results()
        assert libm.fegetround() == ROUNDINGS[mode]
    finally:
        libm.fesetround(0)
    assert changed == expected
