"""How the rows of each format come into a slot: as they are, or as codes that are made into numbers in their place."""

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64, const_expr

from dsl_kernels.core import async_copy
from dsl_kernels.core.schedule_params import STRIPE
from dsl_kernels.core.threads import lane_now

from .queries import SLICE_BYTES

WARP_BYTES = STRIPE * 128  # of a warp's rows in a slice


def see_rows(kernel):
    """Rows that nobody made into numbers: those who use them show them to the tensor cores."""
    if kernel.rows.COPIES_ARRIVE:
        cute.arch.fence_proxy("async.shared", space="cta")


class Rows:
    """A warp has 16 rows. In a slice a row is 128 bytes, whose chunk c of 16 lies at c ^ (row % 8): that is the
    swizzle in which the tensor cores read it. Rows are fetched four at a time, 128 bytes of each by eight lanes.
    """

    def __init__(self, kernel):
        self.kernel, self.half_slices = kernel, kernel.half_slices

    def place(self, slot, which, warp):
        """Address in shared memory of a warp's rows in a slice of a slot."""
        return self.kernel.smem.slice_start(slot, which).toint() + warp * WARP_BYTES

    @cute.jit
    def start_slices(self, slot, warp, address, valid, *halves):
        """Starts the loads of a warp's rows, one half of the columns or both. address: of lane i's row i; valid: a bit
        for each row.
        """
        self.start_columns(self.place(slot, 0, warp), lane_now(slot), address, valid, *halves)

    @cute.jit
    def start_columns(self, there, lane, address, valid, *which):
        """which: halves, or what else a format has; there: where the warp's rows in the first slice of that are."""
        low, high = Int32(address & 0xFFFFFFFF), Int32(address >> 32)
        there = there + (lane >> 3) * 128 + (((lane & 7) ^ (lane >> 3)) << 4)
        for i in cutlass.range_constexpr(4):
            row = 4 * i + (lane >> 3)
            source = (Int64(cute.arch.shuffle_sync(high, row)) << 32) | (
                Int64(cute.arch.shuffle_sync(low, row)) & 0xFFFFFFFF
            )
            to, size = (there ^ (64 * (i % 2))) + 512 * i, ((valid >> row) & 1) << 4
            for columns in which:
                self.start_row(columns, to, source + 16 * (lane & 7), size)

    @cute.jit
    def size_within(self, number, size):
        """Of a lane's 16 of a row's 128 bytes in a slice: 0 behind the first `number`, which alone are wanted."""
        return Int32(0) if 16 * (cute.arch.lane_idx() & 7) >= number else size


class PlainRows(Rows):
    COPIES_ARRIVE = True  # the copies say for each thread that its rows have come

    def row(self, warp, lane):
        """Of a unit: that of which a lane has the address."""
        return warp * STRIPE + lane % STRIPE

    @cute.jit
    def start(self, half, slot, warp, address, _scales, valid):
        self.start_slices(slot, warp, address, valid, half)

    @cute.jit
    def start_whole(self, slot, warp, address, _scales, valid):
        """Both halves at once."""
        self.start_slices(slot, warp, address, valid, 0, 1)

    @cute.jit
    def start_row(self, half, to, source, size):
        """The columns of a half, 128 bytes after 128. to: a lane's place in the first slice; source: in the row."""
        skipped = self.half_slices * half
        for j in cutlass.range_constexpr(self.half_slices):
            async_copy.copy_16(to + SLICE_BYTES * (skipped + j), source + 128 * (skipped + j), size)
        if const_expr(self.kernel.rope):
            if half == 1:
                last = self.kernel.last
                if const_expr(self.kernel.any_rope):
                    size = self.size_within(self.kernel.a.rope_bytes, size)
                async_copy.copy_16(to + SLICE_BYTES * last, source + 128 * last, size)

    def finish(self, half, slot, warp):
        """They are what they shall be."""
