"""The oracle of the formats against numbers worked out by hand and ml_dtypes, and wrong oracles that these catch."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from ops.append_kv import oracle
from planted_faults import edited_module

CODES = [  # (value, code)
    *((0.0, 0), (-0.0, 128), (2.0**-9, 1), (2.0**-10, 0), (3 * 2.0**-10, 2), (2.0**-6, 8), (1.0, 56), (-1.0, 184)),
    *((1.0625, 56), (1.1875, 58), (448.0, 126), (460.0, 126), (1e9, 126)),
]
ENCODED = [  # (column, given scale, code)
    *((1.0, 1.0, 56), (-1.0, 1.0, 184), (1.0, -1.0, 184), (1.0, 0.5, 64), (449.0, 1.0, 126), (-1e30, 1e-30, 254)),
    *((np.inf, 1.0, 126), (-np.inf, 1.0, 254), (np.nan, 1.0, 127), (1.0, 0.0, 126), (-1.0, 0.0, 254), (0.0, 0.0, 127)),
    *((1.0, np.inf, 0), (-1.0, np.inf, 128), (np.inf, np.inf, 127), (1.0, np.nan, 127), (1e-45, 1e-45, 56)),
]
SCALES = {0.0: 2.0**-13, 1e-30: 2.0**-13, 0.05: 2.0**-13, 448.0: 1.0, 448.5: 2.0, 896.0: 2.0, 2.0**100: 2.0**92}
WRONG = {
    "ties go up": ("(codes % 2 == 1)", "(codes >= 0)"),
    "scale of 448 is 2": ("2.0 ** (exponent - (mantissa == 0.5))", "2.0**exponent"),
    "no least scale": ("max(float(largest) / 448, 1e-4)", "max(float(largest) / 448, 1e-9)"),
    "the scale is a factor": ("columns / np.float32(scale)", "columns * np.float32(scale)"),
    "infinity is NaN": ("posinf=np.inf", "posinf=0.0"),
    "sign of zero": ("np.signbit(values)", "values < 0"),
}


def check(module) -> None:
    for value, code in CODES:
        assert module.e4m3_codes(np.array([value]))[0] == code, value
    for column, scale, code in ENCODED:
        assert module.encoded(np.array([column], np.float32), scale)[0] == code, (column, scale)
    for largest, scale in SCALES.items():
        assert module.tile_scale(np.array([-largest, 0, largest / 2], np.float32), unrounded=False) == scale, largest


def test_worked_numbers():
    check(oracle)
    assert np.isnan(oracle.tile_scale(np.array([1, np.inf], np.float32), unrounded=False))
    assert oracle.tile_scale(np.array([300], np.float32), unrounded=True) == np.float32(300) / np.float32(448)


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_wrong_oracle_is_caught(change):
    with pytest.raises(AssertionError):
        check(edited_module(oracle, *change))


def test_codes_are_those_of_ml_dtypes():
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(oracle.E4M3, every.view(ml_dtypes.float8_e4m3fn).astype(np.float64))
    found = [oracle.e8m0_value(int(code)) for code in every]
    np.testing.assert_array_equal(found, every.view(ml_dtypes.float8_e8m0fnu).astype(np.float64))
    values = np.random.default_rng(0).uniform(-448, 448, 100_000).astype(np.float32)
    np.testing.assert_array_equal(
        oracle.e4m3_codes(values.astype(np.float64)), values.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    )
    np.testing.assert_array_equal(oracle.bf16_bits(values), values.astype(ml_dtypes.bfloat16).view(np.uint16))


@pytest.mark.parametrize("name", oracle.FORMATS)
def test_a_page_holds_its_tokens(name):
    fmt = oracle.FORMATS[name].of(576, 2.0**-6)
    rope = fmt.columns - fmt.quantized
    assert fmt.quantized + 2 * rope + fmt.scale_bytes + fmt.padding == fmt.token_bytes
    rows = np.random.default_rng(1).standard_normal((3, fmt.columns)).astype(np.float32)
    page = np.zeros((3, fmt.token_bytes), np.uint8)
    for place, row in enumerate(rows):
        oracle.put(fmt, page, place, *oracle.token_bytes(fmt, row))
    for place, row in enumerate(rows):
        columns, bits = oracle.get(fmt, page, place)
        found = np.concatenate([columns, oracle.widened(bits)])
        np.testing.assert_allclose(found, row, rtol=1 / 16, atol=2.0**-9 * 2.0**-6)
