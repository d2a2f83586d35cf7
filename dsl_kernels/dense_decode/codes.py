"""Rows of 8-bit codes and scales, made into bfloat16 in the slot itself.

Codes that PV's warps fetch come by cp.async into slices of the slot that their numbers do not need yet: of each half of
256 columns, those of the first 128 into its third slice, those of the last 128 into its fourth; scales into its first.
Then a warp, for its 16 rows alone, makes numbers of the former into the first two slices and of the latter into the
last two. Those that a producer fetches: made_codes.py.

The instruction for two codes gives float16, which holds them exactly; their products with the scale are made in float32
and rounded to bfloat16. So a row is bit for bit what dequantize_kv gives, of any code and any scale.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Uint32, const_expr

from dsl_kernels.core import async_copy
from dsl_kernels.core.codes import power_of_two
from dsl_kernels.core.schedule_params import STRIPE
from dsl_kernels.core.threads import lane_now

from .queries import SLICE_BYTES
from .rows import Rows

HALF, PART = 256, 128  # columns


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

    def box(self, half, part):
        """Of rows in boxes, where codes begin that come as one: elements of two bytes behind a box, its number."""
        return 0, self.parts * half + part

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
        """Those of a box lie in its rows; else those of a part side by side, so that no two are in one bank."""
        place = self.place(slot, self.half_slices * half, warp)
        if self.boxed:
            return place + row * 128 + part * 4 + ((row & 7) << 4) + 8 * half
        return place + 4 * (STRIPE * part + row)

    @cute.jit
    def finish(self, half, slot, warp):
        """Makes this warp's codes into numbers."""
        lane = lane_now(slot)  # what follows from it is not kept in registers
        row, source, to = self.places_of(lane)
        scales = self.load_scales(half, slot, warp, lane)
        cute.arch.sync_warp()  # numbers go there now
        to += self.place(slot, 4 * half, warp)
        codes = self.load_part(half, slot, warp, source, 0)
        self.make_part(half, codes, to, scales, row, 0)
        codes = self.load_part(half, slot, warp, source, 1)
        cute.arch.sync_warp()  # all have read what numbers go over now
        self.make_part(half, codes, to + 2 * SLICE_BYTES, scales, row, 1)

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
    def make_part(self, half, codes, to, scales, row, part: cutlass.Constexpr):
        for g in cutlass.range_constexpr(2):
            if const_expr(part == 1 and g == 1 and self.short):
                if half == 0:
                    self.make_slice(codes, to, scales, row, part, g)
            else:
                self.make_slice(codes, to, scales, row, part, g)

    @cute.jit
    def make_slice(self, codes, to, scales, row, part: cutlass.Constexpr, g: cutlass.Constexpr):
        for i in cutlass.range_constexpr(2):
            scale = self.scale_of(scales, row + 8 * i, part, g)
            make(codes[2 * g + i], to + (SLICE_BYTES * g + 1024 * i), scale)

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


def make(words, to, scale):
    """Stores the numbers of 16 codes, and those behind them at `to` ^ 16. scale: its bits."""
    value = as_float(scale)
    for half in (0, 1):
        store_words(to ^ (16 * half), [two_numbers(words[2 * half + i // 2], value, i % 2) for i in range(4)])


def two_numbers(word, scale, which):
    """The lower or the upper two codes of a word -> 2 numbers."""
    return cute.arch.inline_ptx(
        "{ .reg .b16 c<2>, low, high; .reg .b32 h; .reg .f32 x, y; mov.b32 {c0, c1}, {$r0};"
        f" cvt.rn.f16x2.e4m3x2 h, c{which}; mov.b32 {{low, high}}, h; cvt.f32.f16 x, low; cvt.f32.f16 y, high;"
        " mul.rn.f32 x, x, {$r1}; mul.rn.f32 y, y, {$r1}; cvt.rn.bf16x2.f32 {$w0}, y, x; }",
        write_only_types=[Uint32],
        read_only_args=[word, scale],
    )


def as_float(bits):
    return cute.arch.inline_ptx("mov.b32 {$w0}, {$r0};", write_only_types=[Float32], read_only_args=[Int32(bits)])


def load_word(address):
    return cute.arch.inline_ptx("ld.shared.b32 {$w0}, [{$r0}];", write_only_types=[Int32], read_only_args=[address])


def load_words(address):
    return cute.arch.inline_ptx(
        "ld.shared.v4.b32 {{$w0}, {$w1}, {$w2}, {$w3}}, [{$r0}];",
        write_only_types=[Uint32] * 4,
        read_only_args=[address],
    )


def store_words(address, words):
    cute.arch.inline_ptx("st.shared.v4.b32 [{$r0}], {{$r1}, {$r2}, {$r3}, {$r4}};", read_only_args=[address, *words])
