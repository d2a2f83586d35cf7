"""Codes of float8_e4m3fn and of float8_e8m0fnu as numbers: exact, NaN codes too."""

import cutlass.cute as cute
from cutlass import Int32, Uint32


def halves(word):
    """Four codes of float8_e4m3fn -> float16, two in a word."""
    return cute.arch.inline_ptx(
        "{ .reg .b16 low, high; mov.b32 {low, high}, {$r0};"
        " cvt.rn.f16x2.e4m3x2 {$w0}, low; cvt.rn.f16x2.e4m3x2 {$w1}, high; }",
        write_only_types=[Uint32, Uint32],
        read_only_args=[Uint32(word)],
    )


@cute.jit
def power_of_two(byte):
    """What a float8_e8m0fnu is, in float32's bits."""
    bits = byte << 23 if byte != 0 else Int32(0x00400000)  # 2^-127; 255 becomes NaN below
    return bits if byte != 0xFF else Int32(0x7FC00000)
