"""Rows of 8-bit codes and scales, made into bfloat16 in the slot itself.

Codes that PV's warps fetch come by cp.async into slices of the slot that their numbers do not need yet: of each half of
256 columns, those of the first 128 into its third slice, those of the last 128 into its fourth; scales into its first.
Then a warp, for its 16 rows alone, makes numbers of the former into the first two slices and of the latter into the
last two. Those that a producer fetches: made_codes.py.

float8_e4m3fn to bfloat16 by shifting the bits: a code's exponent and mantissa, in place of a bfloat16's last exponent
bits and first mantissa bits, are the number times 2^-120, subnormal ones too. One multiplication by scale * 2^120 in
bfloat16 then makes it code * scale, rounded once. NaN codes, scales that are no bfloat16 (a power of two is one), and
those of 256 and more, of which that factor is too large, take a slower way by float32. In either a row is bit for bit
what dequantize_kv gives.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Uint32, const_expr

from dsl_kernels.core import async_copy
from dsl_kernels.core.threads import lane_now

from .queries import SLICE_BYTES
from .rows import Rows

SHIFT = 120  # log2 of what a shifted code is too small by
HALF, PART = 256, 128  # columns
TWO_TO_SHIFT = 0x7B807B80  # twice 2^120 in bfloat16
LARGE_BITS = 0x43800000  # 256: a scale of which 2^120 as much is too large for bfloat16


class CodedRows(Rows):
    COPIES_ARRIVE = False

    def __init__(self, kernel, codes, boxed):
        """boxed: scales come as the first bytes of a box (boxes.py)."""
        super().__init__(kernel)
        self.codes, self.boxed = codes, boxed
        self.parts = kernel.half // PART  # of a half
        # of rows in boxes: where the RoPE part's is, and the slice that it comes into
        self.rope_box = None if codes.rope_at is None else (codes.rope_at, kernel.last)
        self.short = codes.rope_in_v  # the right half has 64 columns less of codes; its last slice is the RoPE part's

    def raw(self, half, part):
        """The slice in which codes come. The RoPE part's own is taken: the slice of P serves instead."""
        which = self.half_slices * half + self.half_slices // 2 + part
        if const_expr(self.short and part == 1):
            which = which + half * (self.kernel.last - which)
        return which

    @cute.jit
    def start(self, half, slot, warp, address, scales, valid):
        self.start_slices(slot, warp, address, valid, half)
        self.start_scales(half, slot, warp, address, scales, valid)

    @cute.jit
    def start_row(self, half, to, source, size):
        """The codes of a half, and with the right one the RoPE part."""
        codes = self.codes
        async_copy.copy_16(to + SLICE_BYTES * self.raw(half, 0), source + HALF * half, size)
        of_second = size
        if const_expr(self.short):  # half as many, and nothing behind them
            of_second = Int32(0) if (half == 1) and (cute.arch.lane_idx() & 4 != 0) else size
        async_copy.copy_16(to + SLICE_BYTES * self.raw(half, 1), source + (HALF * half + PART), of_second)
        if const_expr(codes.rope_at is not None):
            if half == 1:
                async_copy.copy_16(to + SLICE_BYTES * self.rope_slice(), source + codes.rope_at, size)

    def rope_slice(self):
        """The slice in which the RoPE part comes."""
        return 2 * self.half_slices - 1 if const_expr(self.short) else self.kernel.last

    @cute.jit
    def start_scales(self, half, slot, warp, address, scales, valid):
        """4 bytes of scales for each part of each row: lane 16 * part + row brings them, and has the row's address."""
        codes, lane = self.codes, lane_now(slot)
        row, part = lane & 15, lane >> 4
        if const_expr(codes.scales_at is not None):
            source = address + (codes.scales_at + 8 * half + 4 * part)
        elif const_expr(codes.tile == 64):
            source = scales + 4 * half
        else:
            source = scales + (8 * half + 4 * part)
        async_copy.copy_4(self.scales_place(half, slot, warp, row, part), source, ((valid >> row) & 1) << 2)

    def scales_place(self, half, slot, warp, row, part):
        place = self.place(slot, self.half_slices * half, warp) + row * 128 + part * 4
        return place + ((row & 7) << 4) + 8 * half if self.boxed else place

    @cute.jit
    def finish(self, half, slot, warp):
        """Makes this warp's codes into numbers."""
        lane = lane_now(slot)  # what follows from it is not kept in registers
        row, source, to = self.places_of(lane)
        scales = self.load_scales(half, slot, warp, lane)
        cute.arch.sync_warp()  # numbers go there now
        special = cute.arch.vote_any_sync(self.special_bits(scales) != 0)
        to += self.place(slot, 4 * half, warp)
        codes = self.load_part(half, slot, warp, source, 0)
        self.make_part(half, codes, to, scales, row, special, 0)
        codes = self.load_part(half, slot, warp, source, 1)
        cute.arch.sync_warp()  # all have read what numbers go over now
        self.make_part(half, codes, to + 2 * SLICE_BYTES, scales, row, special, 1)

    @cute.jit
    def load_scales(self, half, slot, warp, lane):
        """Those of row lane % 16, of one part."""
        scales = load_word(self.scales_place(half, slot, warp, lane & 15, lane >> 4))
        if const_expr(self.short):
            scales = scales & ((half - 1) << 24 | 0xFFFFFF)  # the last byte of the right half is padding
        return scales

    def places_of(self, lane):
        """(Row, bytes from a warp's rows in a slice to its codes there, to its numbers). A lane takes 16 codes of one
        row at a time, four times for each part. Of eight lanes that load or store together four are of row r and four
        of row r ^ 5: no two touch the same banks.
        """
        quarter, row = lane & 3, ((lane >> 3) & 3) ^ (5 * ((lane >> 2) & 1))
        return row, row * 128 + ((quarter ^ row) << 4), row * 128 + (((2 * quarter) ^ row) << 4)

    @cute.jit
    def load_part(self, half, slot, warp, source, part: cutlass.Constexpr):
        """A lane's codes, four times 16, in order of the slices of numbers."""
        raw = self.place(slot, self.raw(half, part), warp) + source
        return [load_words((raw ^ (64 * g)) + 1024 * i) for g in (0, 1) for i in (0, 1)]

    @cute.jit
    def make_part(self, half, codes, to, scales, row, special, part: cutlass.Constexpr):
        found = Uint32(0)
        for words in codes:
            for word in words:
                found = found | ((word & Uint32(0x7F7F7F7F)) + Uint32(0x01010101))
        if special or cute.arch.vote_any_sync((found & Uint32(0x80808080)) != Uint32(0)):
            self.make_slices(half, codes, to, scales, row, part, True)
        else:
            self.make_slices(half, codes, to, scales, row, part, False)

    @cute.jit
    def make_slices(self, half, codes, to, scales, row, part: cutlass.Constexpr, special: cutlass.Constexpr):
        for g in cutlass.range_constexpr(2):
            if const_expr(part == 1 and g == 1 and self.short):
                if half == 0:
                    self.make_slice(codes, to, scales, row, part, g, special)
            else:
                self.make_slice(codes, to, scales, row, part, g, special)

    @cute.jit
    def make_slice(
        self, codes, to, scales, row, part: cutlass.Constexpr, g: cutlass.Constexpr, special: cutlass.Constexpr
    ):
        for i in cutlass.range_constexpr(2):
            scale = self.scale_of(scales, row + 8 * i, part, g)
            make(codes[2 * g + i], to + (SLICE_BYTES * g + 1024 * i), scale, special)

    def special_bits(self, scales):
        """Not 0: a scale of this lane's takes the slower way."""
        if self.codes.scales_at is None:  # a byte of 135 and more is 256 or more
            return ((scales & 0x7F7F7F7F) + 0x79797979) & scales & Int32(-0x7F7F7F80)
        return special_float(scales)

    @cute.jit
    def scale_of(self, scales, row, part: cutlass.Constexpr, g: cutlass.Constexpr):
        """The scale of this lane's 16 codes, in float32's bits."""
        codes = self.codes
        word = cute.arch.shuffle_sync(scales, row + 16 * part)
        if const_expr(codes.scales_at is None):
            if const_expr(codes.tile == 64):
                byte = (word >> (8 * (2 * part + g))) & 0xFF
            else:
                byte = (word >> (16 * g + 8 * ((cute.arch.lane_idx() >> 1) & 1))) & 0xFF
            word = power_of_two(byte)
        return word


def special_float(bits):
    """Not 0: a scale takes the slower way."""
    return (bits & 0xFFFF) | cutlass.max((bits & 0x7FFFFFFF) - (LARGE_BITS - 1), 0)


@cute.jit
def power_of_two(byte):
    """What a float8_e8m0fnu is, in float32's bits."""
    bits = byte << 23 if byte != 0 else Int32(0x00400000)  # 2^-127; 255 becomes NaN below
    return bits if byte != 0xFF else Int32(0x7FC00000)


@cute.jit
def make(words, to, scale, special: cutlass.Constexpr):
    """Stores the numbers of 16 codes, and those behind them at `to` ^ 16. scale: its bits; special: they may be any."""
    value = as_float(scale)
    if const_expr(special):
        for i in cutlass.range_constexpr(8):  # pair after pair, which takes the fewest registers
            store_word((to ^ (16 * (i // 4))) + 4 * (i % 4), special_pair(words[i // 2], value, i % 2))
    else:
        factor = twice_bf16(value * Float32(2.0**SHIFT))
        for half in cutlass.range_constexpr(2):
            pairs = [pair for i in (0, 1) for pair in fast_pairs(words[2 * half + i], factor)]
            store_words(to ^ (16 * half), pairs)


# Bytes 0 and 1, or 2 and 3, of a word: each in the high byte of 16 bits with its sign spread over the low byte, then
# shifted and cut to the sign at bit 15 and the other bits from bit 4 on.
SPREAD = ("0x9180", "0xB3A2")


def fast_pairs(word, factor):
    """4 codes -> 2 pairs of numbers. factor: the scale times 2^120, twice."""
    return cute.arch.inline_ptx(
        "{ .reg .b32 a, b; "
        f"prmt.b32 a, {{$r0}}, 0, {SPREAD[0]}; prmt.b32 b, {{$r0}}, 0, {SPREAD[1]}; shl.b32 a, a, 4; shl.b32 b, b, 4;"
        " and.b32 a, a, 0x87F087F0; and.b32 b, b, 0x87F087F0; mul.rn.bf16x2 {$w0}, a, {$r1};"
        " mul.rn.bf16x2 {$w1}, b, {$r1}; }",
        write_only_types=[Uint32, Uint32],
        read_only_args=[word, factor],
    )


def special_pair(word, scale, which):
    """2 codes -> 2 numbers, of any code and any scale."""
    return cute.arch.inline_ptx(
        "{ .reg .b32 a, n, t; .reg .f32 x, y; .reg .pred p; "
        f"prmt.b32 a, {{$r0}}, 0, {SPREAD[which]}; mov.b32 t, {TWO_TO_SHIFT}; shl.b32 a, a, 4;"
        " and.b32 a, a, 0x87F087F0; and.b32 n, a, 0x07F007F0; mul.rn.bf16x2 a, a, t;"
        " and.b32 t, n, 0xFFFF; setp.eq.u32 p, t, 0x07F0; @p or.b32 a, a, 0x7FFF;"
        " shr.u32 t, n, 16; setp.eq.u32 p, t, 0x07F0; @p or.b32 a, a, 0x7FFF0000;"
        " shl.b32 t, a, 16; mov.b32 x, t; and.b32 t, a, 0xFFFF0000; mov.b32 y, t;"
        " mul.rn.f32 x, x, {$r1}; mul.rn.f32 y, y, {$r1}; cvt.rn.bf16x2.f32 {$w0}, y, x; }",
        write_only_types=[Uint32],
        read_only_args=[word, scale],
    )


def twice_bf16(x):
    return cute.arch.inline_ptx("cvt.rn.bf16x2.f32 {$w0}, {$r0}, {$r0};", write_only_types=[Uint32], read_only_args=[x])


def as_float(bits):
    return cute.arch.inline_ptx("mov.b32 {$w0}, {$r0};", write_only_types=[Float32], read_only_args=[Int32(bits)])


def load_word(address):
    return cute.arch.inline_ptx("ld.shared.b32 {$w0}, [{$r0}];", write_only_types=[Int32], read_only_args=[address])


def load_byte(address):
    return cute.arch.inline_ptx("ld.shared.u8 {$w0}, [{$r0}];", write_only_types=[Int32], read_only_args=[address])


def load_words(address):
    return cute.arch.inline_ptx(
        "ld.shared.v4.b32 {{$w0}, {$w1}, {$w2}, {$w3}}, [{$r0}];",
        write_only_types=[Uint32] * 4,
        read_only_args=[address],
    )


def store_word(address, word):
    cute.arch.inline_ptx("st.shared.b32 [{$r0}], {$r1};", read_only_args=[address, word])


def store_words(address, words):
    cute.arch.inline_ptx("st.shared.v4.b32 [{$r0}], {{$r1}, {$r2}, {$r3}, {$r4}};", read_only_args=[address, *words])
