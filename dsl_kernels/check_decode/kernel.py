"""Counts the values of a decode step that dense_decode would read clamped: lengths, query offsets, page numbers. For
the checking mode alone; it changes nothing that others read.

What is found is told the host in its own memory, a record for each kind of value (params.py): how many there were ever,
and of one of those since the host's last report its request, position, value and limit. A warp claims the record before
it writes there, so that these belong together, and says when they can be read.

Several kernels of one device may run at once, and the host reads meanwhile. Atomics are of the device's scope: not
every device has any on the host's memory that the host sees as such (PCIe has none). So the host only reads what they
change, and the one word that it writes, its number of reports, lies away from them. Claims go through the numbers in
order: whoever has seen an old one claims nothing. A warp counts before it reads the number of reports, and the host
raises that before it reads the count: either the host's report has the warp's values in it, or the warp sees the new
number, or both. So none is forgotten.
"""

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64, Uint32, max, min

from dsl_kernels.core import attended, schedule
from dsl_kernels.core.params import Named
from dsl_kernels.core.threads import warp_reduce

from . import params
from .config import THREADS, Variant
from .params import PARAMS

MANY, REQUEST, POSITION, VALUE, LIMIT = range(5)  # what a thread knows of a kind: how many, and of the first of them


class CheckDecode:
    def __init__(self, variant: Variant):
        self.threads = variant.threads
        self.cluster = 1
        self.shared_bytes = 0

    @cute.jit
    def __call__(self, args: tuple, stream: cuda.CUstream):
        self.kernel(args).launch(grid=(1, 1, 1), block=(self.threads, 1, 1), stream=stream, min_blocks_per_mp=1)

    @cute.kernel
    def kernel(self, args: tuple):
        self.a = a = Named(PARAMS, args)
        tid, _, _ = cute.arch.thread_idx()
        bid, _, _ = cute.arch.block_idx()
        grid, _, _ = cute.arch.grid_dim()
        cute.arch.griddepcontrol_launch_dependents()
        cute.arch.griddepcontrol_wait()
        self.found = [cute.make_rmem_tensor((5,), Int32) for _ in range(params.VALUES)]
        for kind in cutlass.range_constexpr(params.VALUES):
            self.found[kind].fill(0)
        request = Uint32(bid * THREADS + tid)  # without sign: the next one may be beyond 2^31
        while request < Uint32(a.batch):
            self.check_request(Int32(request))
            request += Uint32(grid * THREADS)
        request = Uint32(bid)
        while request < Uint32(a.batch):
            if schedule.address(a.block_table) != 0:
                self.check_pages(Int32(request), tid)
            request += Uint32(grid)
        for kind in cutlass.range_constexpr(params.VALUES):
            self.tell(kind)

    @cute.jit
    def note(self, kind: cutlass.Constexpr, wrong, request, position, value, limit):
        found = self.found[kind]
        if wrong:
            if found[MANY] == 0:
                found[REQUEST], found[POSITION], found[VALUE], found[LIMIT] = request, position, value, limit
            found[MANY] = found[MANY] + 1

    @cute.jit
    def check_request(self, request):
        """Its lengths and query offsets."""
        a = self.a
        length = schedule.element(a.lengths, request)
        self.note(params.LENGTH, (length < 0) or (length > a.capacity), request, request, length, a.capacity)
        if schedule.address(a.global_seqlens) != 0:
            tokens = schedule.element(a.global_seqlens, request)
            self.note(params.GLOBAL_LENGTH, tokens < 0, request, request, tokens, Int32(0))
        if schedule.by_request(a):
            begin = schedule.element(a.cu_seqlens_q, request)
            end = schedule.element(a.cu_seqlens_q, request + 1)
            if request == 0:
                self.note(params.OFFSET, (begin < 0) or (begin > a.total_q), request, Int32(0), begin, a.total_q)
            self.note(params.OFFSET, (end < 0) or (end > a.total_q), request, request + 1, end, a.total_q)
            self.note(params.ORDER, end < begin, request, request + 1, end, begin)
            first = min(max(begin, 0), a.total_q)
            count = min(max(end, first), a.total_q) - first
            self.note(params.COUNT, count > a.s_q, request, request, count, a.s_q)

    @cute.jit
    def check_pages(self, request, tid):
        """The page numbers that its last query token attends, by all threads of the block."""
        a = self.a
        length = attended.length_of(a, request)
        if a.cp_period != 0:
            length = attended.in_shard(a, length, attended.global_length(a, request))
        pages = Uint32(length // a.page_size) + Uint32(min(length % a.page_size, 1))
        _, count = schedule.query_range(a, request)
        if count == 0:  # then they are not read
            pages = Uint32(0)
        table = a.block_table + Int64(request) * a.block_table_stride
        column = Uint32(tid + self.first_page(length, count))
        while column < pages:
            number = schedule.element(table, Int32(column))
            self.note(params.PAGE, Uint32(number) >= Uint32(a.num_blocks), request, Int32(column), number, a.num_blocks)
            column += Uint32(THREADS)

    @cute.jit
    def first_page(self, length, count):
        """That in which the window of its first query token begins."""
        a, page = self.a, Int32(0)
        if a.window > 0:
            page = max(max(length - a.causal * (max(count, 1) - 1), 0) - a.window, 0) // a.page_size
        return page

    @cute.jit
    def tell(self, kind: cutlass.Constexpr):
        """What the lanes of this warp have found; all lanes."""
        found = self.found[kind]
        votes = cute.arch.vote_ballot_sync(found[MANY] != 0)
        if votes != 0:
            many = warp_reduce(found[MANY], lambda x, y: x + y)
            if cute.arch.lane_idx() == cute.arch.popc(~votes & (votes - 1)):
                self.write(self.a.findings + kind * (params.FINDING_BYTES // 8), found, many)

    @cute.jit
    def write(self, record, found: cute.Tensor, many):
        cute.arch.atomic_add(record + params.FOUND, Int64(many), sem="relaxed", scope="gpu")
        cute.arch.inline_ptx("fence.sc.sys;")  # the host has one, too, between its write and its read
        reports = Int64(cute.arch.load(record + params.REPORTS, Int64, sem="relaxed", scope="sys"))
        claim = {"cmp": reports, "val": reports + 1}
        if cute.arch.atomic_cas(record + params.CLAIMED, **claim, sem="relaxed", scope="gpu") == reports:
            place = (Int64(found[POSITION]) << 32) | (Int64(found[REQUEST]) & 0xFFFFFFFF)
            what = (Int64(found[LIMIT]) << 32) | (Int64(found[VALUE]) & 0xFFFFFFFF)
            cute.arch.store(record + params.PLACE, place, sem="relaxed", scope="sys")
            cute.arch.store(record + params.WHAT, what, sem="relaxed", scope="sys")
            cute.arch.store(record + params.READY, reports + 1, sem="release", scope="sys")
