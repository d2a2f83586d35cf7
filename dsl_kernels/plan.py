"""The scheduler: sequence lengths -> cuts of the work list, in one CTA on the device, without host synchronisation.

The algorithm, in exact integers, is stated in libflashmla/src/internal.h (fm_cut) and done on the host by
libflashmla/src/plan.c; the results are equal bit for bit. A thread sums the costs of its run of requests, the block
scans the sums, then threads place cuts independently by binary search.
"""

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64, max, min

from . import params
from .components import schedule
from .variants import Variant

LOG2_THREADS = 8
THREADS = 1 << LOG2_THREADS


class Plan:
    def __init__(self, _: Variant):
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

        cute.arch.griddepcontrol_launch_dependents()
        cute.arch.griddepcontrol_wait()  # the lengths are written, and nobody reads the old schedule any more

        # prefix sums of the cost: each thread a run of requests
        run = (a.batch + (THREADS - 1)) // THREADS
        begin = min(tid * run, a.batch)
        end = min(begin + run, a.batch)
        own = Int64(0)
        for i in cutlass.range(begin, end, unroll=1):
            own += self.request_cost(i)
        column = self.scan_add(scan, tid, own)  # cost of a column of tiles
        total = column * a.tiles_per_request
        running = scan[tid] - own
        for i in cutlass.range(begin, end, unroll=1):
            before[i] = running
            running += self.request_cost(i)
        if tid == 0:
            before[a.batch] = column
            cuts[2 * a.num_parts] = a.num_tiles
            cuts[2 * a.num_parts + 1] = Int32(0)
        cute.arch.sync_threads()

        if a.num_splits > 0:
            for w in cutlass.range(tid, a.num_parts, THREADS, unroll=1):
                t = w // a.num_splits
                pages = self.pages(t % a.batch)
                cuts[2 * w] = t
                cuts[2 * w + 1] = Int32(Int64(w - t * a.num_splits) * Int64(pages) // Int64(a.num_splits))
        else:
            per_part = (Int64(a.num_tiles) + a.num_parts - 1) // Int64(a.num_parts)
            worst = Int64(0)
            for w in cutlass.range(tid, a.num_parts, THREADS, unroll=1):
                worst = max(worst, self.position((w + 1) * per_part, column) - self.position(w * per_part, column))
            worst = self.reduce_max(scan, tid, worst)
            share = (total + a.num_parts - 1) // Int64(a.num_parts)
            whole = worst <= share + a.start_overhead + a.split_overhead
            for w in cutlass.range(tid, a.num_parts, THREADS, unroll=1):
                tile, page = Int32(0), Int32(0)
                if whole:
                    tile = Int32(min(w * per_part, Int64(a.num_tiles)))
                else:
                    tile, page = self.cut_at(w * share, column)
                cuts[2 * w] = tile
                cuts[2 * w + 1] = page

    @cute.jit
    def pages(self, i):
        return schedule.pages_of(schedule.length_of(self.a, i))

    @cute.jit
    def request_cost(self, i):
        return Int64(self.pages(i) + self.a.start_overhead)

    @cute.jit
    def position(self, tile, column_cost):
        """Cost before a tile (Int64, any number >= 0)."""
        a, where = self.a, column_cost * self.a.tiles_per_request
        if tile < a.num_tiles:
            column = Int32(tile) // a.batch
            where = column * column_cost + self.before[Int32(tile) - column * a.batch]
        return where

    @cute.jit
    def cut_at(self, where, column_cost):
        """The (tile, page) at which the cost before reaches `where`."""
        a = self.a
        tile, page = a.num_tiles, Int32(0)
        column = where // column_cost
        if column < a.tiles_per_request:
            rest = where - column * column_cost
            low, high = Int32(0), a.batch
            while high - low > 1:
                middle = low + (high - low) // 2
                below = self.before[middle] <= rest
                low = middle if below else low
                high = high if below else middle
            tile = Int32(column) * a.batch + low
            page = Int32(max(rest - self.before[low] - a.start_overhead, Int64(0)))
        return tile, page

    @cute.jit
    def scan_add(self, scan, tid, value):
        """Inclusive prefix sums over the block into `scan`; returns the total."""
        scan[tid] = value
        cute.arch.sync_threads()
        for step in cutlass.range_constexpr(LOG2_THREADS):
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
        for step in cutlass.range_constexpr(LOG2_THREADS):
            if tid < (THREADS >> (step + 1)):
                scan[tid] = max(scan[tid], scan[tid + (THREADS >> (step + 1))])
            cute.arch.sync_threads()
        return scan[0]
