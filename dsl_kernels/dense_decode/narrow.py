"""Rows of codes with one scale for all whose halves are 64 columns: codes of a half are 64 bytes of a row, behind which
those of the right half have the RoPE part. Both come as one, into the slice that the former's numbers take.
"""

import cutlass.cute as cute

from dsl_kernels.core import async_copy
from dsl_kernels.core.threads import lane_now

from .codes import load_words
from .queries import SLICE_BYTES
from .unscaled import UnscaledRows

HALF = 64  # columns: bytes of codes


class NarrowRows(UnscaledRows):
    def __init__(self, kernel, codes, boxed):
        super().__init__(kernel, codes, boxed)
        self.parts, self.rope_box = 1, None

    def raw(self, half, _part):
        return half

    def box(self, half, _part):
        return HALF // 2 * half, 0

    @cute.jit
    def start_row(self, half, to, source, size):
        size = self.size_within(HALF + half * self.kernel.a.rope_bytes, size)
        async_copy.copy_16(to + SLICE_BYTES * half, source + HALF * half, size)

    @cute.jit
    def finish(self, half, slot, warp):
        """Makes this warp's codes into numbers."""
        _, source, to = self.places_of(lane_now(slot))
        place = self.place(slot, half, warp)
        codes = [load_words(place + source + 1024 * i) for i in (0, 1)]
        behind = [load_words(((place + source) ^ HALF) + 1024 * i) for i in (0, 1)]
        cute.arch.sync_warp()  # numbers go there now
        self.store(codes, place + to)
        if half == 1:
            self.store(behind, self.place(slot, self.kernel.last, warp) + to)
