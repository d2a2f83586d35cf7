"""Rows of codes with one scale for all whose halves are 64 columns: codes of a half are 64 bytes of a row, behind which
those of the right half have the RoPE part. Both come as one, into the slice that the former's numbers take.
"""

import cutlass.cute as cute
from cutlass import Int32

from dsl_kernels.core import async_copy
from dsl_kernels.core.threads import lane_now

from .codes import load_words
from .queries import SLICE_BYTES
from .unscaled import UnscaledRows

CODES = 64  # of a half, a byte each


class NarrowRows(UnscaledRows):
    def __init__(self, kernel, codes, boxed):
        super().__init__(kernel, codes, boxed)
        self.parts, self.rope_box = 1, None

    def raw(self, half, _part):
        return half

    def box(self, half, _part):
        return CODES // 2 * half, 0

    @cute.jit
    def start_row(self, half, to, source, size):
        wanted = CODES + half * self.kernel.a.rope_bytes
        size = Int32(0) if 16 * (cute.arch.lane_idx() & 7) >= wanted else size
        async_copy.copy_16(to + SLICE_BYTES * half, source + CODES * half, size)

    @cute.jit
    def finish(self, half, slot, warp):
        """Makes this warp's codes into numbers."""
        _, source, to = self.places_of(lane_now(slot))
        place = self.place(slot, half, warp)
        codes = [load_words(place + source + 1024 * i) for i in (0, 1)]
        behind = [load_words(((place + source) ^ CODES) + 1024 * i) for i in (0, 1)]
        cute.arch.sync_warp()  # numbers go there now
        self.store(codes, place + to)
        if half == 1:
            self.store(behind, self.place(slot, self.kernel.last, warp) + to)
