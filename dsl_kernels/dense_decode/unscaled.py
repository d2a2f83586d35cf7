"""Rows of codes with one scale for all: every column is a code, and becomes the number that it is, with the sign of the
scale. bfloat16 holds that exactly; what becomes of the scale's size: descale.py.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Int32, const_expr

from dsl_kernels.core import async_copy
from dsl_kernels.core.threads import lane_now

from .codes import PART, CodedRows, any_nan, load_words, make
from .descale import scale_of
from .queries import SLICE_BYTES

ONE = 0x3F800000  # bits of 1.0


class UnscaledRows(CodedRows):
    @cute.jit
    def start(self, half, slot, warp, address, _scales, valid):
        self.start_slices(slot, warp, address, valid, half)

    @cute.jit
    def start_row(self, half, to, source, size):
        """The codes of a half, and with the right one the RoPE part, where other formats have their scales."""
        kernel = self.kernel
        for part in cutlass.range_constexpr(self.parts):
            column = kernel.half * half + PART * part
            async_copy.copy_16(to + SLICE_BYTES * self.raw(half, part), source + column, size)
        if const_expr(kernel.rope):
            if half == 1:  # half as many, and nothing behind them
                of_rope = Int32(0) if cute.arch.lane_idx() & 4 != 0 else size
                async_copy.copy_16(to + SLICE_BYTES * self.half_slices, source + kernel.d_v, of_rope)

    @cute.jit
    def finish(self, half, slot, warp):
        """Makes this warp's codes into numbers."""
        row, source, to = self.places_of(lane_now(slot))
        sign = self.sign()
        if const_expr(self.kernel.rope):
            if half == 1:
                raw = self.place(slot, self.half_slices, warp) + source
                codes = [load_words(raw + 1024 * i) for i in (0, 1)]
                cute.arch.sync_warp()  # numbers go there now
                self.make_rope(codes, self.place(slot, self.kernel.last, warp) + to, sign)
        self.make_parts(half, slot, warp, source, to, sign, row, False)

    @cute.jit
    def make_rope(self, codes, to, sign):
        if any_nan(codes):
            for i in cutlass.range_constexpr(2):
                make(codes[i], to + 1024 * i, sign, True)
        else:
            for i in cutlass.range_constexpr(2):
                make(codes[i], to + 1024 * i, sign, False)

    def sign(self):
        """Bits of 1.0 with the sign of the scale."""
        return cute.arch.inline_ptx(
            f"{{ .reg .b32 t; mov.b32 t, {{$r0}}; and.b32 t, t, 0x80000000; or.b32 {{$w0}}, t, {ONE}; }}",
            write_only_types=[Int32],
            read_only_args=[scale_of(self.kernel.a)],
        )

    def scale_of(self, sign, _row, _part: cutlass.Constexpr, _g: cutlass.Constexpr):
        return sign
