"""Tokens in the formats of the KV cache, from the formats' definition, code by code; bfloat16 as its bits.

Sources: OCP 8-bit floating point specification 1.0 (e4m3), OCP microscaling formats 1.0 (e8m0); FlashMLA 9241ae3,
tests/quant.py (the quantiser, V32, MODEL1); vLLM's FlashMLA (fp8: a code for each column, one scale for all tokens).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Format(NamedTuple):
    """quantized: columns that are codes; tile: columns of a scale; split: scales lie behind the rows of a page."""

    columns: int
    quantized: int
    tile: int
    scale: str  # of NumPy, "<f4"; "e8m0"; "call": there is one, which calls are given
    token_bytes: int
    split: bool
    padding: int = 0  # bytes behind the scales of a token
    descale: float = 1.0  # of a "call"

    @property
    def tiles(self) -> int:
        return self.quantized // self.tile

    @property
    def scale_bytes(self) -> int:
        """Of a token."""
        return self.tiles * {"<f4": 4, "e8m0": 1, "call": 0}[self.scale]

    def of(self, columns: int, descale: float | None) -> Format:
        """With what a call tells of it."""
        if self.scale != "call":
            return self
        one = 1.0 if descale is None else float(np.float32(descale))
        return self._replace(columns=columns, quantized=columns, tile=columns, token_bytes=columns, descale=one)


FORMATS = {  # columns of "fp8": of the geometry of DeepSeek V3, but any number will do
    "v32": Format(576, 512, 128, "<f4", 656, split=False),
    "v32_nope": Format(512, 512, 128, "<f4", 528, split=False),
    "model1": Format(512, 448, 64, "e8m0", 584, split=True, padding=1),
    "v41": Format(512, 512, 32, "e8m0", 528, split=True),
    "fp8": Format(576, 576, 576, "call", 576, split=False),
}
SCALED = tuple(name for name, fmt in FORMATS.items() if fmt.scale != "call")  # with scales in their pages


def format_of(name: str, columns: int, descale: float | None) -> Format | None:
    """That of a cache; None: of rows as they are."""
    return FORMATS[name].of(columns, descale) if name in FORMATS else None


NAN_CODE = 0x7F


def e4m3_value(code: int) -> float:
    """Sign, four bits of exponent with bias 7, three of mantissa; all ones but the sign: NaN."""
    sign, exponent, mantissa = -1.0 if code & 0x80 else 1.0, code >> 3 & 15, code & 7
    if code & 0x7F == NAN_CODE:
        return float("nan")
    if exponent == 0:
        return sign * mantissa * 2.0**-9
    return sign * (8 + mantissa) * 2.0 ** (exponent - 10)


E4M3 = np.array([e4m3_value(code) for code in range(256)])
_FINITE = E4M3[:NAN_CODE]  # from 0 to 448
_MIDDLES = (_FINITE[1:] + _FINITE[:-1]) / 2


def e4m3_codes(values: np.ndarray) -> np.ndarray:
    """The nearest code, of two the even one; 448 for what is beyond it."""
    size = np.abs(values)
    codes = np.searchsorted(_MIDDLES, size, side="left")  # on a middle the lower one
    tie = (codes < len(_MIDDLES)) & (size == _MIDDLES[np.minimum(codes, len(_MIDDLES) - 1)])
    codes = codes + (tie & (codes % 2 == 1))
    return (codes | np.where(np.signbit(values), 0x80, 0)).astype(np.uint8)


def e8m0_value(code: int) -> float:
    return float("nan") if code == 255 else 2.0 ** (code - 127)


E8M0 = np.array([e8m0_value(code) for code in range(256)])


def bf16_bits(values: np.ndarray) -> np.ndarray:
    """float32 to bfloat16, to nearest, ties to even; NaN is 0x7fff."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    low = bits & 0xFFFF
    up = (low > 0x8000) | ((low == 0x8000) & (bits >> 16 & 1 == 1))
    return np.where(np.isnan(values), 0x7FFF, (bits >> 16) + up).astype(np.uint16)


def tile_scale(columns: np.ndarray, *, unrounded: bool) -> float:
    """The scale of a tile, NaN where a column is not finite."""
    if not np.isfinite(columns).all():
        return float("nan")
    largest = np.float32(np.abs(columns).max())
    if unrounded:
        return float(max(largest / np.float32(448), np.float32(1e-4)))
    mantissa, exponent = np.frexp(max(float(largest) / 448, 1e-4))  # of float64; mantissa in [0.5, 1)
    return 2.0 ** (exponent - (mantissa == 0.5))


def quantize_tile(columns: np.ndarray, *, unrounded: bool) -> tuple[np.ndarray, float]:
    """(codes, scale) of columns in float32."""
    scale = tile_scale(columns, unrounded=unrounded)
    if np.isnan(scale):
        return np.full(len(columns), NAN_CODE, np.uint8), scale
    ratio = columns / np.float32(scale) if unrounded else columns.astype(np.float64) / scale
    return e4m3_codes(ratio.astype(np.float64)), scale


def encoded(columns: np.ndarray, scale: float) -> np.ndarray:
    """Codes of columns in float32 with a scale that is given."""
    with np.errstate(all="ignore"):
        ratio = columns / np.float32(scale)
    return np.where(np.isnan(ratio), NAN_CODE, e4m3_codes(np.nan_to_num(ratio, nan=0.0, posinf=np.inf, neginf=-np.inf)))


def scale_bytes(scales: list[float], kind: str) -> np.ndarray:
    if kind == "e8m0":
        return np.array([255 if np.isnan(scale) else 127 + int(np.log2(scale)) for scale in scales], np.uint8)
    bits = [0x7FC00000 if np.isnan(scale) else int(np.float32(scale).view(np.uint32)) for scale in scales]
    return np.array(bits, "<u4").view(np.uint8)


def token_bytes(fmt: Format, row: np.ndarray, *, unrounded: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(bytes of a row with its scales left out, bytes of its scales). `row`: its columns, float32, or bits of bfloat16
    as uint16, which RoPE columns keep.
    """
    bits = row if row.dtype == np.uint16 else bf16_bits(row)
    columns = widened(row) if row.dtype == np.uint16 else row
    if fmt.scale == "call":
        return encoded(columns, fmt.descale).astype(np.uint8), np.zeros(0, np.uint8)
    tiles = [
        quantize_tile(columns[first : first + fmt.tile], unrounded=unrounded)
        for first in range(0, fmt.quantized, fmt.tile)
    ]
    codes = np.concatenate([tile for tile, _ in tiles])
    return np.concatenate([codes, bits[fmt.quantized :].view(np.uint8)]), scale_bytes([s for _, s in tiles], fmt.scale)


def put(fmt: Format, page: np.ndarray, place: int, row: np.ndarray, scales: np.ndarray) -> None:
    """Writes a token into a page, (page_size, token_bytes) bytes."""
    flat = page.reshape(-1)
    if fmt.split:
        flat[place * len(row) : (place + 1) * len(row)] = row
        first = len(page) * len(row) + place * (len(scales) + fmt.padding)
        flat[first : first + len(scales)] = scales
    else:
        flat[place * fmt.token_bytes :][: fmt.quantized] = row[: fmt.quantized]
        flat[place * fmt.token_bytes + fmt.quantized :][: len(scales)] = scales
        rope = row[fmt.quantized :]
        flat[place * fmt.token_bytes + fmt.quantized + len(scales) :][: len(rope)] = rope


def with_a_nan(fmt: Format, token: int) -> tuple[np.ndarray, np.ndarray]:
    """(Bytes of a row of ones, those of its scales) that hold one NaN, each token another: a code with either sign at
    any byte of a word of any slice, or, of every fourth token, a scale, of float32 also an infinite one.
    """
    row = np.full(fmt.quantized + 2 * (fmt.columns - fmt.quantized), 0x38, np.uint8)
    row[fmt.quantized :] = 0x3F
    wide, four = fmt.scale != "e8m0", token // 4
    scales = np.ones(fmt.tiles, "<f4") if wide else np.full(fmt.tiles, 127, np.uint8)
    if token % 4 == 3 and fmt.scale != "call":
        scales[four % fmt.tiles] = (np.nan, np.inf)[four // fmt.tiles % 2] if wide else 255
    else:
        row[(64 * four + token + four // 8) % fmt.quantized] = (0x7F, 0xFF)[four // 16]
    return row, scales.view(np.uint8)[: fmt.scale_bytes]


def get(fmt: Format, page: np.ndarray, place: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of a page: exact products of code and scale, float64; the bits of their RoPE columns in bfloat16."""
    flat, place = page.reshape(-1), np.asarray(place)

    def taken(first: np.ndarray, count: int) -> np.ndarray:
        return flat[first[..., None] + np.arange(count)]

    rope_bytes = 2 * (fmt.columns - fmt.quantized)
    if fmt.split:
        row_bytes = fmt.quantized + rope_bytes
        row, first = place * row_bytes, len(page) * row_bytes + place * (fmt.scale_bytes + fmt.padding)
        rope = row + fmt.quantized
    else:
        row = place * fmt.token_bytes
        first = row + fmt.quantized
        rope = first + fmt.scale_bytes
    scales = taken(first, fmt.scale_bytes)
    if fmt.scale == "call":
        values = np.full((*place.shape, 1), fmt.descale)
    else:
        values = E8M0[scales] if fmt.scale == "e8m0" else scales.view("<f4").astype(np.float64)
    with np.errstate(invalid="ignore"):
        columns = E4M3[taken(row, fmt.quantized)] * np.repeat(values, fmt.tile, axis=-1)
    return columns, taken(rope, rope_bytes).view("<u2")


def widened(bits: np.ndarray) -> np.ndarray:
    """bfloat16 as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
