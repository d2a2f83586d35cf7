"""The scheduler: sequence lengths -> cuts of the work list, in one CTA on the device, without host synchronisation.

The algorithm, in exact integers, is stated in libflashmla/src/internal.h (fm_cut) and done on the host by libflashmla/src/plan.c; the results are equal bit for bit.
A thread sums the costs of its run of requests, the block scans the sums, then threads place cuts independently by binary search.
"""

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64, max, min

from . import params
from .components import schedule
from .variants import Variant

THREADS = 1024


class Plan:
    def __init__(self, variant: Variant):
        self.threads = THREADS
        self.cluster = 1

    @cute.jit
    def __call__(self, args: tuple, stream: cuda.CUstream):
        @cute.struct
        class Storage:
            scan: cute.struct.MemRange[Int64, THREADS]

        self.storage = Storage
        self.shared_bytes = Storage.size_in_bytes()
        self.kernel(args).launch(grid=(1, 1, 1), block=(self.threads, 1, 1), stream=stream)

    @cute.kernel
    def kernel(self, args: tuple):
        self.a = a = params.Named(params.PLAN, args)
        tid, _, _ = cute.arch.thread_idx()
        scan = cutlass.memory.SmemAllocator().allocate(self.storage).scan.get_tensor(cute.make_layout(THREADS))
        self.before = before = cute.make_tensor(a.cost_before, cute.make_layout(2**30))
        self.cuts = cuts = cute.make_tensor(a.cuts, cute.make_layout(2**30))

        # prefix sums of the cost: each thread a run of requests
        run = (a.batch + (THREADS - 1)) // THREADS
        begin = min(tid * run, a.batch)
        end = min(begin + run, a.batch)
        own = Int64(0)
        for i in cutlass.range(begin, end, unroll=1):
            own += self.request_cost(i)
        total = self.scan_add(scan, tid, own)
        running = scan[tid] - own
        for i in cutlass.range(begin, end, unroll=1):
            before[i] = running
            running += self.request_cost(i)
        if tid == 0:
            before[a.batch] = total
            cuts[2 * a.num_parts] = a.num_tiles
            cuts[2 * a.num_parts + 1] = Int32(0)
        cute.arch.sync_threads()

        if a.num_splits > 0:
            for w in cutlass.range(tid, a.num_parts, THREADS, unroll=1):
                t = w // a.num_splits
                pages = self.pages(t // a.tiles_per_request)
                cuts[2 * w] = t
                cuts[2 * w + 1] = Int32(Int64(w - t * a.num_splits) * Int64(pages) // Int64(a.num_splits))
        else:
            per_part = (Int64(a.num_tiles) + a.num_parts - 1) // Int64(a.num_parts)
            worst = Int64(0)
            for w in cutlass.range(tid, a.num_parts, THREADS, unroll=1):
                worst = max(worst, self.position((w + 1) * per_part, total) - self.position(w * per_part, total))
            worst = self.reduce_max(scan, tid, worst)
            share = (total + a.num_parts - 1) // Int64(a.num_parts)
            whole = worst <= share + a.start_overhead + a.split_overhead
            for w in cutlass.range(tid, a.num_parts, THREADS, unroll=1):
                tile, page = Int32(0), Int32(0)
                if whole:
                    tile = Int32(min(w * per_part, Int64(a.num_tiles)))
                else:
                    tile, page = self.cut_at(w * share, total)
                cuts[2 * w] = tile
                cuts[2 * w + 1] = page

    @cute.jit
    def pages(self, i):
        return schedule.pages_of(schedule.length_of(self.a, i))

    @cute.jit
    def request_cost(self, i):
        return Int64(self.a.tiles_per_request) * Int64(self.pages(i) + self.a.start_overhead)

    @cute.jit
    def position(self, tile, total):
        """Cost before a tile (Int64, any number >= 0)."""
        a, where = self.a, total
        if tile < a.num_tiles:
            i = Int32(tile) // a.tiles_per_request
            cost = Int64(self.pages(i) + a.start_overhead)
            where = self.before[i] + (tile - Int64(i) * a.tiles_per_request) * cost
        return where

    @cute.jit
    def cut_at(self, where, total):
        """The (tile, page) at which the cost before reaches `where`."""
        a = self.a
        tile, page = a.num_tiles, Int32(0)
        if where < total:
            low, high = Int32(0), a.batch
            while high - low > 1:
                middle = low + (high - low) // 2
                below = self.before[middle] <= where
                low = middle if below else low
                high = high if below else middle
            cost = Int64(self.pages(low) + a.start_overhead)
            rest = where - self.before[low]
            tiles = rest // cost
            tile = low * a.tiles_per_request + Int32(tiles)
            page = Int32(max(rest - tiles * cost - a.start_overhead, Int64(0)))
        return tile, page

    @cute.jit
    def scan_add(self, scan, tid, value):
        """Inclusive prefix sums over the block into `scan`; returns the total."""
        scan[tid] = value
        cute.arch.sync_threads()
        for step in cutlass.range_constexpr(10):
            left = scan[max(tid - (1 << step), 0)] if tid >= (1 << step) else Int64(0)
            cute.arch.sync_threads()
            scan[tid] = scan[tid] + left
            cute.arch.sync_threads()
        return scan[THREADS - 1]

    @cute.jit
    def reduce_max(self, scan, tid, value):
        cute.arch.sync_threads()
        scan[tid] = value
        cute.arch.sync_threads()
        for step in cutlass.range_constexpr(10):
            if tid < (512 >> step):
                scan[tid] = max(scan[tid], scan[tid + (512 >> step)])
            cute.arch.sync_threads()
        return scan[0]
