"""Codes of float8_e4m3fn as columns."""

import cutlass
import cutlass.cute as cute
from cutlass import Float16, Float32, Int32, Int64, Uint8, Uint32

from dsl_kernels.core.codes import halves, power_of_two
from dsl_kernels.core.memory import float_of, number_at

COLUMNS = 16  # of a lane


@cute.jit
def decode(codes: cute.Tensor, scale, columns: cute.Tensor):
    """Products of the lane's codes and their scale."""
    words = cute.size(codes)
    numbers = cute.make_rmem_tensor((2 * words,), Uint32)
    for i in cutlass.range_constexpr(words):
        numbers[2 * i], numbers[2 * i + 1] = halves(codes[i])
    columns.store(cute.recast_tensor(numbers, Float16).load().to(Float32) * scale)


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
        bits = power_of_two(bits & 0xFF)  # the compiler loads it with a sign
    return float_of(bits)
