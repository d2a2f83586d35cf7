"""Rows of codes with one scale for all: every column is a code and becomes the number that it is, in float16, which
holds it exactly and for which there is an instruction. What becomes of the scale: descale.py.
"""

import cutlass
import cutlass.cute as cute
from cutlass import const_expr

from dsl_kernels.core import async_copy
from dsl_kernels.core.codes import halves
from dsl_kernels.core.threads import lane_now, opaque

from .codes import PART, CodedRows, load_words, store_words
from .queries import SLICE_BYTES


class UnscaledRows(CodedRows):
    def __init__(self, kernel, codes, boxed):
        super().__init__(kernel, codes, boxed)
        self.rope_box = (kernel.d_v, self.half_slices) if kernel.rope else None

    @cute.jit
    def start(self, half, slot, warp, address, _scales, valid):
        self.start_slices(slot, warp, address, valid, half)

    @cute.jit
    def start_row(self, half, to, source, size):
        """The codes of a half, and with the right one the RoPE part, where other formats have their scales."""
        kernel = self.kernel
        for part in cutlass.range_constexpr(self.parts):
            column = kernel.half * opaque(half) + PART * part  # there is no register for it
            async_copy.copy_16(to + SLICE_BYTES * self.raw(half, part), source + column, size)
        if const_expr(kernel.rope):
            if half == 1:
                of_rope = self.size_within(kernel.a.rope_bytes, size)
                async_copy.copy_16(to + SLICE_BYTES * self.half_slices, source + kernel.d_v, of_rope)

    @cute.jit
    def finish(self, half, slot, warp):
        """Makes this warp's codes into numbers."""
        _, source, to = self.places_of(lane_now(slot))
        if const_expr(self.kernel.rope):
            if half == 1:
                raw = self.place(slot, self.half_slices, warp) + source
                codes = [load_words(raw + 1024 * i) for i in (0, 1)]
                cute.arch.sync_warp()  # numbers go there now
                self.store(codes, self.place(slot, self.kernel.last, warp) + to)
        to += self.place(slot, self.half_slices * half, warp)
        for part in cutlass.range_constexpr(self.parts):
            codes = self.load_part(half, slot, warp, source, part)
            if const_expr(part == self.parts - 1):
                cute.arch.sync_warp()  # all have read what numbers go over now
            self.store(codes, to + 2 * SLICE_BYTES * part)

    def store(self, codes, to):
        """The numbers of codes: of a lane's row and of that eight behind it, slice after slice."""
        for number, words in enumerate(codes):
            place = to + SLICE_BYTES * (number // 2) + 1024 * (number % 2)
            for half in (0, 1):
                store_words(place ^ (16 * half), [pair for i in (0, 1) for pair in halves(words[2 * half + i])])
