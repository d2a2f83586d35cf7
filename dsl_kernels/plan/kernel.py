"""The scheduler: sequence lengths -> cuts of the work list, in one CTA on the device, without host synchronisation.

The algorithm, in exact integers, is that of fm_cut in the C core, which does it on the host; the results are equal bit
for bit. A thread sums the costs of its run of requests, the block scans the sums, then threads find cuts independently
by binary search, or try how parts are filled (filling.py).
"""

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64, max, min

from dsl_kernels.core import attended, pieces, schedule
from dsl_kernels.core.params import Named

from .apart import cut_apart
from .block import Block
from .config import LOG2_THREADS, NOTES, WARPS, Variant
from .filling import Filling
from .params import PARAMS

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
            stored: cute.struct.MemRange[Int64, THREADS]
            of_warps: cute.struct.MemRange[Int64, WARPS]
            notes: cute.struct.MemRange[Int64, NOTES]

        self.storage = Storage
        self.shared_bytes = Storage.size_in_bytes()
        self.kernel(args).launch(grid=(1, 1, 1), block=(self.threads, 1, 1), stream=stream)

    @cute.kernel
    def kernel(self, args: tuple):
        self.a = a = Named(PARAMS, args)
        tid, _, _ = cute.arch.thread_idx()
        storage = cutlass.memory.SmemAllocator().allocate(self.storage)
        # what the runs of threads add up to: of requests their costs, of parts the items that they store
        self.scan = scan = storage.scan.get_tensor(cute.make_layout(THREADS))
        stored = storage.stored.get_tensor(cute.make_layout(THREADS))
        self.block = Block(THREADS, storage.of_warps.get_tensor(cute.make_layout(WARPS)))
        self.before = before = cute.make_tensor(a.cost_before, cute.make_layout(2**30))
        self.cuts = cuts = cute.make_tensor(a.cuts, cute.make_layout(2**30))
        notes = storage.notes.get_tensor(cute.make_layout(NOTES))
        self.filling = Filling(self, notes, stored, cute.make_tensor(a.first_slot, cute.make_layout(2**30)))

        # What follows from parameters is worked out in front of the wait. Each thread has a run of requests.
        self.run = run = (a.batch + (THREADS - 1)) // THREADS
        begin = min(tid * run, a.batch)
        end = min(begin + run, a.batch)
        splits = a.num_parts // a.num_tiles  # of a tile in an aligned schedule; 0: whole tiles
        parts, tiles = a.num_parts // a.bands, a.num_tiles // a.bands  # of a band
        per_part = ceil_div(tiles, parts)

        cute.arch.griddepcontrol_launch_dependents()
        cute.arch.griddepcontrol_wait()  # the lengths are written, and nobody reads the old schedule any more

        # prefix sums of the cost
        own, largest, costliest = Int64(0), Int32(0), Int64(0)
        for i in cutlass.range(begin, end, unroll=1):
            cost = self.request_cost(i)
            own += cost
            largest = max(largest, self.aligned_piece(self.units(i), splits))
            costliest = max(costliest, self.tile_cost(i) if cost > 0 else Int64(0))  # of those with live tiles
        # cost of a column of tiles, with variable-length queries of all
        self.column = column = self.block.scan_add(scan, tid, own)
        running = scan[tid] - own
        for i in cutlass.range(begin, end, unroll=1):
            before[i] = running
            if i + 1 < end:
                running += self.request_cost(i)
        if tid == 0:
            before[a.batch] = column
            cuts[2 * a.num_parts] = a.num_tiles
            cuts[2 * a.num_parts + 1] = Int32(0)
        cute.arch.sync_threads()

        total = column if schedule.by_request(a) else column * a.tiles_per_request
        if a.piece_units > 0:
            costliest = self.block.reduce_max(tid, costliest)
            self.filling.cut_between_items(tid, column if a.bands > 1 else total, costliest)
        elif a.pieces_apart > 0:
            cut_apart(a, cuts, tid, THREADS)
        elif a.num_splits > 0:
            for part in cutlass.range(tid, a.num_parts, THREADS, unroll=1):
                self.write_cut(part, *self.cut_forced(part))
        else:
            cost = column if a.bands > 1 else total
            worst = Int64(0)  # cost of the most expensive aligned part
            if splits > 0:
                worst = Int64(largest + a.start_overhead)
            else:
                for part in cutlass.range(tid, parts, THREADS, unroll=1):
                    edges = [
                        self.position(min((part + i) * per_part, Int64(tiles)), total) for i in (Int64(0), Int64(1))
                    ]
                    worst = max(worst, edges[1] - edges[0])
            worst = self.block.reduce_max(tid, worst)
            share = share_of(cost, parts)
            aligned = worst <= share + a.start_overhead + (1 if splits > 1 else a.split_overhead)
            for part in cutlass.range(tid, a.num_parts, THREADS, unroll=1):
                band = part // parts
                j = Int64(part - band * parts)
                tile, unit = Int32(min(band * tiles + min(j * per_part, Int64(tiles)), Int64(a.num_tiles))), Int32(0)
                if not aligned:
                    tile, unit = self.cut_at(band * cost + min(j * share, cost), total)
                elif splits > 0:
                    tile, unit = self.cut_in_pieces(part, splits)
                self.write_cut(part, tile, unit)

    @cute.jit
    def write_cut(self, part, tile, unit):
        """Writes the cut where a part begins; the first one is always the beginning."""
        cuts = self.cuts
        cuts[2 * part] = tile if part > 0 else 0
        cuts[2 * part + 1] = unit if part > 0 else 0

    @cute.jit
    def units(self, i):
        return attended.units_of(attended.items_of(self.a, i))

    @cute.jit
    def tile_cost(self, i):
        """Of one tile of request i, in units."""
        a, units = self.a, self.units(i)
        cost = units + a.start_overhead
        if a.piece_units > 0:
            cost = max(units, 1) + a.start_overhead + pieces.pieces_of(self.quanta(i)) * a.piece_overhead
        return Int64(cost)

    @cute.jit
    def quanta(self, i):
        """Of a tile of request i, at least one."""
        return max(ceil_div(self.units(i), self.a.piece_units), 1)

    @cute.jit
    def aligned_piece(self, units, pieces):
        """Units of a piece of an aligned schedule, with at most `pieces` of a tile."""
        piece = max(units, 1)
        if (units > self.a.whole_units) and (pieces > 1):
            piece = ceil_div(units, pieces)
        return piece

    @cute.jit
    def live_tiles(self, i):
        """Tiles of a KV head of request i for which there is something to do."""
        a = self.a
        _, count = schedule.query_range(a, i)
        blocks = ceil_div(count, a.block_tokens) * a.head_chunks
        return Int64(ceil_div(blocks, a.cluster))

    @cute.jit
    def request_cost(self, i):
        a, cost = self.a, self.tile_cost(i)
        if schedule.by_request(a):
            cost *= self.live_tiles(i) * (a.tiles_per_request // a.tiles_per_head)
        return cost

    @cute.jit
    def position(self, tile, total):
        """Cost of all tiles before a tile (Int64, any number >= 0)."""
        a, where = self.a, total
        if tile < a.num_tiles:
            request, head, tile_of_head = schedule.locate_tile(a, Int32(tile))
            if schedule.by_request(a):
                live = self.live_tiles(request)
                of_tiles = (head * live + min(Int64(tile_of_head), live)) * self.tile_cost(request)
                where = self.begin_of(request) + of_tiles
            else:
                where = (head * a.tiles_per_head + tile_of_head) * self.column + self.begin_of(request)
        return where

    @cute.jit
    def cut_forced(self, part):
        """Where a part begins when every tile is cut into num_splits equal pieces."""
        a = self.a
        tile, unit = part // a.num_splits, Int32(0)
        split = part - tile * a.num_splits
        request, _, _ = schedule.locate_tile(a, tile)
        units = self.units(request)
        pieces = min(a.num_splits, max(units, 1))  # no empty ones between others
        if split < pieces:
            unit = Int32(Int64(split) * Int64(units) // Int64(pieces))
        else:
            tile += 1
        return tile, unit

    @cute.jit
    def cut_in_pieces(self, part, most):
        """Where a part begins when a tile is cut into at most `most` pieces."""
        a = self.a
        tile, unit = part // most, Int32(0)
        if tile >= a.num_tiles:
            tile = a.num_tiles
        else:
            request, _, tile_of_head = schedule.locate_tile(a, tile)
            _, count = schedule.query_range(a, request)
            units = self.units(request)
            unit = (part - tile * most) * self.aligned_piece(units, most)
            dead = schedule.first_token(a, tile_of_head * a.cluster) >= count
            if dead or ((unit >= units) and (unit != 0)):
                tile, unit = tile + 1, Int32(0)
        return tile, unit

    @cute.jit
    def begin_of(self, request):
        """What the requests before one cost."""
        begin = Int64(0)
        if self.run > 1:
            begin = self.before[request]
        elif request > 0:
            begin = self.scan[request - 1]
        return begin

    @cute.jit
    def request_at(self, rest):
        """The last request of a column that begins at `rest` or before, which is less than the cost of all: by runs."""
        thread = Int32(0)
        for log in cutlass.range_constexpr(LOG2_THREADS):
            half = THREADS >> (log + 1)
            thread += half if self.scan[thread + (half - 1)] <= rest else 0
        request = thread * self.run
        if self.run > 1:
            request = self.last_request(request, rest)
        return request

    @cute.jit
    def last_request(self, request, rest):
        """The last request of a column, from one on, that begins at `rest` or before."""
        a, before = self.a, self.before
        step = Int32(1)
        while (request + step < a.batch) and (before[min(request + step, a.batch)] <= rest):
            request, step = request + step, 2 * step
        while step > 1:
            step = step // 2
            if (request + step < a.batch) and (before[min(request + step, a.batch)] <= rest):
                request += step
        return request

    @cute.jit
    def live_tile(self, request, column, rest):
        """The tile that lies `rest` behind the begin of a request's, and how far behind its own begin that is."""
        a = self.a
        tile = column * a.batch + request
        if schedule.by_request(a):
            cost, live = self.tile_cost(request), max(self.live_tiles(request), Int64(1))
            j = rest // cost
            head = j // live
            tile = request * a.tiles_per_request + Int32(head * a.tiles_per_head + j - head * live)
            rest -= j * cost
        return tile, rest

    @cute.jit
    def cut_at(self, where, total):
        """The (tile, unit) at which the cost before reaches `where`."""
        tile, unit = self.a.num_tiles, Int32(0)
        if where < total:
            column, rest = Int32(0), where
            if where >= self.column:
                column = Int32(where // self.column)
                rest = where - column * self.column
            request = self.request_at(rest)
            tile, rest = self.live_tile(request, column, rest - self.begin_of(request))
            unit = Int32(max(rest - self.a.start_overhead, Int64(0)))
        return tile, unit


@cute.jit
def share_of(cost, parts):
    """ceil(cost / parts). A division of 64 bits takes several times as long as one of 32."""
    share = Int64(0)
    if cost + parts < 2**31:
        share = Int64((Int32(cost) + (parts - 1)) // parts)
    else:
        share = (cost + (parts - 1)) // Int64(parts)
    return share


def ceil_div(x, y):
    return x // y + min(x % y, 1)
