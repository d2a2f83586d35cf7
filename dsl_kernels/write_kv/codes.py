"""Columns as codes of float8_e4m3fn: with the scale of their tile, or with one that is given."""

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float16, Float32, Int32, max

from dsl_kernels.core.memory import bits_of, float_of, fresh_number_at
from dsl_kernels.core.schedule import address

COLUMNS = 16  # of a lane
INFINITY, NAN = 0x7F800000, 0x7FC00000
CODES_NAN = 0x7F7F7F7F


@cute.jit
def largest_of(a, given: cute.Tensor):
    """The bits of the largest magnitude of the tile, as float32. As 16 bits they order as the numbers do, with
    infinity and then NaN above.
    """
    largest = given[0] & 0x7FFF7FFF
    for i in cutlass.range_constexpr(1, COLUMNS // 2):
        largest = larger_halves(largest, given[i] & 0x7FFF7FFF)
    for shift in cutlass.range_constexpr(3):
        other = cute.arch.shuffle_sync_bfly(largest, 1 << shift)
        largest = larger_halves(largest, other) if shift < a.tile_shift else largest
    largest = max(largest & 0xFFFF, largest >> 16) << 16
    return bits_of(half_in_top(largest)) if a.float16 != 0 else largest


@cute.jit
def tile_codes(a, given: cute.Tensor, largest, codes: cute.Tensor):
    """The lane's codes of a tile; returns the bits of its scale."""
    columns = cute.make_rmem_tensor((COLUMNS,), Float32)
    widen(a, given, columns)
    finite = largest < INFINITY
    scale = max(((largest + 0x1FFFFF) & INFINITY) - (8 << 23), Int32(114 << 23))  # see formats/tiles.c
    if a.unrounded != 0:
        exact = cute.arch.fmax(divided(float_of(largest), Float32(448.0), Float32(1 / 448)), Float32(1e-4))
        scale = bits_of(exact)
        inverse = inverse_of(exact)
        for i in cutlass.range_constexpr(COLUMNS):
            columns[i] = divided(columns[i], exact, inverse)
    else:
        inverse = float_of(Int32(254 << 23) - scale)
        for i in cutlass.range_constexpr(COLUMNS):
            columns[i] = columns[i] * inverse
    for i in cutlass.range_constexpr(COLUMNS // 4):
        found = four_codes(columns[4 * i], columns[4 * i + 1], columns[4 * i + 2], columns[4 * i + 3])
        codes[i] = found if finite else Int32(CODES_NAN)
    return scale if finite else Int32(NAN)


@cute.jit
def given_scale(a):
    """(Divisor, its inverse, factor, products do) of one scale for all columns, of any size and sign. Quotients are
    those of columns and scale times a power of two that makes neither the rest of a division nor its divisor subnormal.
    """
    scale = Float32(1.0)
    if address(a.descale) != 0:
        scale = fresh_number_at(Float32, address(a.descale))
    size = float_of(bits_of(scale) & 0x7FFFFFFF)
    factor = Float32(1.0)
    if size < 2.0**-60:
        factor = Float32(2.0**96)
    if size > 2.0**100:
        factor = Float32(2.0**-96)
    divisor = size * factor
    if bits_of(scale) < 0:
        factor = -factor
    inverse = inverse_of(divisor)
    # Of an infinite scale and of 0 products do, and no division would; of a power of two both are the same.
    plain = inverse == 0.0 or divisor == 0.0 or bits_of(divisor) & 0x7FFFFF == 0
    return divisor, inverse, factor, plain


@cute.jit
def given_codes(a, given: cute.Tensor, scale: tuple, codes: cute.Tensor):
    """The lane's codes with a scale that is what given_scale says."""
    divisor, inverse, factor, plain = scale
    count = 2 * cute.size(given)
    columns = cute.make_rmem_tensor((count,), Float32)
    widen(a, given, columns)
    if plain:
        for i in cutlass.range_constexpr(count):
            columns[i] = columns[i] * factor * inverse
    else:
        for i in cutlass.range_constexpr(count):
            column_within = within(columns[i] * factor, 512 * divisor)  # beyond it the code is that of 448
            columns[i] = divided(column_within, divisor, inverse)
    for i in cutlass.range_constexpr(count // 4):
        codes[i] = four_codes(columns[4 * i], columns[4 * i + 1], columns[4 * i + 2], columns[4 * i + 3])


@cute.jit
def widen(a, given: cute.Tensor, columns: cute.Tensor):
    """Columns as float32."""
    if a.float16 != 0:
        columns.store(cute.recast_tensor(given, Float16).load().to(Float32))
    else:
        columns.store(cute.recast_tensor(given, BFloat16).load().to(Float32))


@cute.jit
def larger_halves(x, y):
    """The larger one of each 16 bits, without sign."""
    return cute.arch.inline_ptx(
        "max.u16x2 {$w0}, {$r0}, {$r1};", write_only_types=[Int32], read_only_args=[Int32(x), Int32(y)]
    )


@cute.jit
def half_in_top(bits):
    """A float16 in the upper 16 bits, as float32."""
    return cute.arch.inline_ptx(
        "{ .reg .b16 low, high; mov.b32 {low, high}, {$r0}; cvt.f32.f16 {$w0}, high; }",
        write_only_types=[Float32],
        read_only_args=[Int32(bits)],
    )


@cute.jit
def inverse_of(x):
    """1 / x, to nearest."""
    return cute.arch.inline_ptx("rcp.rn.f32 {$w0}, {$r0};", write_only_types=[Float32], read_only_args=[Float32(x)])


@cute.jit
def divided(x, y, inverse):
    """x / y for y > 0, to nearest unless it is below 2^-100, by 1 / y to nearest: P. Markstein, IBM Journal of Research
    and Development 34 (1990), theorem 7. The sign is that of x: of zero it would be lost.
    """
    return cute.arch.inline_ptx(
        "{ .reg .f32 q, r; mul.rn.f32 q, {$r0}, {$r2}; neg.f32 r, q; fma.rn.f32 r, r, {$r1}, {$r0};"
        " fma.rn.f32 q, r, {$r2}, q; copysign.f32 {$w0}, {$r0}, q; }",
        write_only_types=[Float32],
        read_only_args=[Float32(x), Float32(y), Float32(inverse)],
    )


@cute.jit
def within(x, bound):
    """x, or the bound that it is beyond; NaN stays NaN."""
    return cute.arch.inline_ptx(
        "{ .reg .f32 low; neg.f32 low, {$r1}; max.NaN.f32 low, low, {$r0}; min.NaN.f32 {$w0}, low, {$r1}; }",
        write_only_types=[Float32],
        read_only_args=[Float32(x), Float32(bound)],
    )


@cute.jit
def four_codes(a, b, c, d):
    """Four numbers as float8_e4m3fn, to nearest, ties to even, at most 448; the first in the lowest byte."""
    low, high = (
        cute.arch.inline_ptx(
            "cvt.rn.satfinite.e4m3x2.f32 {$w0}, {$r0}, {$r1};",
            write_only_types=[cutlass.Int16],
            read_only_args=[Float32(y), Float32(x)],
        )
        for x, y in ((a, b), (c, d))
    )
    return (Int32(high) << 16) | (Int32(low) & 0xFFFF)
