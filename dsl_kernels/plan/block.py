"""What the threads of the block find out together: sums and the largest of their numbers, by warps first."""

import cutlass
import cutlass.cute as cute
from cutlass import Int64, max

from dsl_kernels.core.threads import warp_reduce

from .config import WARP


class Block:
    """of_warps: shared memory with a number for each warp."""

    def __init__(self, threads, of_warps: cute.Tensor):
        self.warps, self.of_warps = threads // WARP, of_warps

    @cute.jit
    def scan_add(self, scan: cute.Tensor, tid, value):
        """Inclusive prefix sums into `scan`; returns the total."""
        of_warps, lane, warp, own = self.of_warps, tid % WARP, tid // WARP, value
        for log in cutlass.range_constexpr(5):
            below = cute.arch.shuffle_sync_up(own, 1 << log)
            own += below if lane >= (1 << log) else Int64(0)
        if lane == WARP - 1:
            of_warps[warp] = own
        cute.arch.sync_threads()
        before, total = Int64(0), Int64(0)
        for other in cutlass.range_constexpr(self.warps):
            of_other = of_warps[other]
            before += of_other if other < warp else Int64(0)
            total += of_other
        scan[tid] = before + own
        cute.arch.sync_threads()
        return total

    @cute.jit
    def reduce_max(self, tid, value):
        of_warps = self.of_warps
        value = warp_reduce(value, max)
        if tid % WARP == 0:
            of_warps[tid // WARP] = value
        cute.arch.sync_threads()
        for other in cutlass.range_constexpr(self.warps):
            value = max(value, of_warps[other])
        cute.arch.sync_threads()
        return value
