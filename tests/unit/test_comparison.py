"""The comparison and the guard bands notice what they are there for."""

from __future__ import annotations

import numpy as np
import pytest

import backends
import build
import compare
from buffers import Guarded, Layout
from ops.dense_decode import bounds

BF16 = compare.tolerance("dense_decode", "bfloat16")


@pytest.fixture
def reference() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, 64, 512))


def test_rounding_to_bfloat16_passes(reference):
    rounded = reference.astype("float32").view("uint32") + 0x8000 & 0xFFFF0000
    compare.check_out(rounded.view("float32").astype(np.float64), reference, BF16)


def test_one_wrong_row_of_many_is_seen(reference):
    wrong = reference.copy()
    wrong[1, 2, 63] *= 1.01
    assert compare.relative_error(wrong, reference) < BF16.norm
    with pytest.raises(AssertionError, match="row's norm"):
        compare.check_out(wrong, reference, BF16)


def test_one_wrong_element_is_seen(reference):
    wrong = reference.copy()
    wrong[0, 0, 0, 511] += 0.1
    with pytest.raises(AssertionError, match="an element"):
        compare.check_out(wrong, reference, BF16)


def test_a_small_error_everywhere_is_seen(reference):
    with pytest.raises(AssertionError, match=r"\|\|out - ref\|\|"):
        compare.check_out(reference * 1.004, reference, BF16)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen(reference, value):
    wrong = reference.copy()
    wrong[1, 0, 5, 7] = value
    with pytest.raises(AssertionError, match="position"):
        compare.check_out(wrong, reference, BF16)


def test_lse_bounds():
    truth = np.array([0.5, 100.0, np.inf])
    compare.check_lse(truth + np.array([9e-6, 9e-5, 0]), truth, BF16)
    for error in ([1.1e-5, 0, 0], [0, 1.1e-4, 0]):
        with pytest.raises(AssertionError, match="lse differs"):
            compare.check_lse(truth + np.array(error), truth, BF16)
    with pytest.raises(AssertionError, match=r"\+inf position"):
        compare.check_lse(np.array([0.5, 100.0, -np.inf]), truth, BF16)


def test_bounds_widen_with_a_large_scale_only():
    assert compare.tolerance("dense_decode", "float32", 1e-3) == compare.tolerance("dense_decode", "float32")
    for dtype, norm in (("float32", 24e-5), ("bfloat16", 3e-3 + 23e-5)):
        wide = compare.tolerance("dense_decode", dtype, 1.0)
        assert wide.norm == pytest.approx(norm)
        assert wide.element_of_row == pytest.approx(8 * norm)
        assert wide.lse_absolute == pytest.approx(24e-5)
        assert wide.lse_relative == 1e-6


def test_the_relative_bound_of_a_log_sum_exp_is_the_backends():
    truth = np.array([459.22884538397193])
    cut_off = np.array([459.22833251953125])  # what a GPU gave of one token, of the sum of 36 steps
    bound = BF16.at(19.2)
    compare.check_lse(cut_off, truth, bound.on("gpu"))
    with pytest.raises(AssertionError, match="lse"):
        compare.check_lse(cut_off, truth, bound.on("cpu"))
    with pytest.raises(AssertionError, match="lse"):
        compare.check_lse(truth * (1 - 3.1e-6), truth, bound.on("gpu"))
    assert BF16.on("cpu") == BF16


def test_the_readme_states_these_bounds():
    stated = (
        "at most {bfloat16:.0e} in bf16, {float16:.0e} in fp16, {float32:.0e} in float32, "
        "plus {logit:.0e} * (m - 1). `lse`: {lse:.0e} * m absolute or {relative:.0e} relative, "
        "on a GPU {gpu:.0e} relative"
    ).format(
        **{dtype: bound.norm for dtype, bound in bounds.BY_DTYPE.items()},
        logit=BF16.logit,
        lse=BF16.lse_absolute,
        relative=BF16.lse_relative,
        gpu=BF16.on("gpu").lse_relative,
    )
    assert BF16.lse_absolute == BF16.logit
    text = " ".join((build.ROOT / "README.md").read_text().split())
    assert stated.replace("e-0", "e-") in text


@pytest.mark.parametrize("layout", [Layout(), Layout(order=(1, 0, 2), gaps=(1, 2), offset=3)])
def test_guard_bands(layout):
    tensor = Guarded(backends.NumpyAdapter(), (3, 4, 16), "float16", layout, granule=8)
    tensor.tensor[...] = 1
    tensor.check_only_elements_written("tensor")
    assert (tensor.values() == 1).all()
    for place in (0, tensor.offset - 1, tensor.offset + tensor.nbytes, tensor.buffer.size - 1):
        tensor.buffer[place] ^= 1
        with pytest.raises(AssertionError, match="1 bytes beside"):
            tensor.check_only_elements_written("tensor")
        tensor.buffer[place] ^= 1


def test_guard_in_a_gap():
    tensor = Guarded(backends.NumpyAdapter(), (2, 16), "float16", Layout(gaps=(1,)), granule=8)
    tensor.buffer[tensor.offset + 32] = 0  # behind the 16 elements of the first row
    with pytest.raises(AssertionError, match="1 bytes beside"):
        tensor.check_only_elements_written("tensor")


def test_inputs_must_stay_as_they_were():
    tensor = Guarded(backends.NumpyAdapter(), (2, 16), "float16", values=np.ones((2, 16)))
    tensor.check_unchanged("tensor")
    tensor.tensor[1, 3] = 2
    with pytest.raises(AssertionError, match="tensor: bytes"):
        tensor.check_unchanged("tensor")
