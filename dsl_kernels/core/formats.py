"""Quantised formats of the KV cache, as kernels read them in place. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Codes:
    """A row of a quantised format, as libflashmla/src/formats/formats.c has it: bytes from its begin, columns."""

    rope_at: int | None  # where 64 columns of bfloat16 are; None: there are none
    rope_in_v: bool = False  # they are the last ones of V
    tile: int = 128  # columns of a scale
    one_scale: bool = False  # that of all codes, which calls give; every column is a code
    scales_at: int | None = None  # float32 scales; None: bytes (float8_e8m0fnu), apart from the row


CODES = {
    "v32": Codes(rope_at=528, scales_at=512),
    "v32_nope": Codes(rope_at=None, scales_at=512),
    "model1": Codes(rope_at=448, rope_in_v=True, tile=64),
    "v41": Codes(rope_at=None, tile=32),
    "fp8": Codes(rope_at=None, one_scale=True),
}
