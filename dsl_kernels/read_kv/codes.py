"""Codes of float8_e4m3fn as columns."""

import cutlass
import cutlass.cute as cute
from cutlass import Float16, Float32, Int32, Int64, Uint8

from dsl_kernels.core.memory import float_of, number_at

COLUMNS = 16  # of a lane
SMALLEST_SCALE = 0x00400000  # 2^-127, whose code is 0
NAN = 0x7FC00000


@cute.jit
def decode(codes: cute.Tensor, scale, columns: cute.Tensor):
    """Products of the lane's codes and their scale."""
    words = cute.size(codes)
    halves = cute.make_rmem_tensor((2 * words,), Int32)
    for i in cutlass.range_constexpr(words):
        halves[2 * i], halves[2 * i + 1] = four_halves(codes[i])
    columns.store(cute.recast_tensor(halves, Float16).load().to(Float32) * scale)


@cute.jit
def scale_bits(a, scales, lane):
    """Of the tile of the lane's columns, as they lie there."""
    tile = Int64(lane >> a.tile_shift)
    bits = Int32(0)
    if a.byte_scales != 0:
        bits = Int32(number_at(Uint8, scales + tile))
    else:
        bits = number_at(Int32, scales + 4 * tile)
    return bits


@cute.jit
def scale_of(a, bits):
    if a.byte_scales != 0:
        code = bits & 0xFF  # the compiler loads it with a sign
        bits = code << 23 if code != 0 else Int32(SMALLEST_SCALE)
        bits = bits if code != 255 else Int32(NAN)
    return float_of(bits)


@cute.jit
def four_halves(codes):
    """Four codes of float8_e4m3fn as float16, two in a word: exact."""
    return cute.arch.inline_ptx(
        "{ .reg .b16 low, high; mov.b32 {low, high}, {$r0};"
        " cvt.rn.f16x2.e4m3x2 {$w0}, low; cvt.rn.f16x2.e4m3x2 {$w1}, high; }",
        write_only_types=[Int32, Int32],
        read_only_args=[Int32(codes)],
    )
