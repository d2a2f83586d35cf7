"""Kernels of the checking mode: they count the values of a call that its other kernels would read clamped, and change
nothing that others read.

What is found is told the host in its own memory, a record for each kind of value (finding_params.py): how many there
were ever, and of one of those since the host's last report its place, value and limit. A warp claims the record before
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

from . import finding_params as params
from . import schedule
from .params import Named
from .threads import warp_reduce

MANY, PLACE, TOKEN, VALUE, LIMIT = range(5)  # what a thread knows of a kind: how many, and of the first of them


class Checker:
    """PARAMS: of the kernel; KINDS: what it looks for. look() does, with all threads."""

    PARAMS: tuple
    KINDS: tuple

    def __init__(self, variant):
        self.threads = variant.threads
        self.cluster = 1
        self.shared_bytes = 0

    @cute.jit
    def __call__(self, args: tuple, stream: cuda.CUstream):
        self.kernel(args).launch(grid=(1, 1, 1), block=(self.threads, 1, 1), stream=stream, min_blocks_per_mp=1)

    @cute.kernel
    def kernel(self, args: tuple):
        self.a = Named(self.PARAMS, args)
        cute.arch.griddepcontrol_launch_dependents()
        cute.arch.griddepcontrol_wait()
        self.found = {kind: cute.make_rmem_tensor((5,), Int64) for kind in self.KINDS}
        for kind in cutlass.range_constexpr(len(self.KINDS)):
            self.found[self.KINDS[kind]].fill(0)
        self.look()
        for kind in cutlass.range_constexpr(len(self.KINDS)):
            self.tell(self.KINDS[kind])

    @cute.jit
    def note(self, kind: cutlass.Constexpr, wrong, request, position, value, limit, token=0):
        found = self.found[kind]
        if wrong:
            if found[MANY] == 0:
                found[PLACE] = (Int64(position) << 32) | (Int64(request) & 0xFFFFFFFF)
                found[TOKEN], found[VALUE], found[LIMIT] = Int64(token), Int64(value), Int64(limit)
            found[MANY] = found[MANY] + 1

    @cute.jit
    def check_requests(self):
        """check_request() of each, by the threads of all blocks."""
        tid, _, _ = cute.arch.thread_idx()
        bid, _, _ = cute.arch.block_idx()
        grid, _, _ = cute.arch.grid_dim()
        request = Uint32(bid * self.threads + tid)  # without sign: the next one may be beyond 2^31
        while request < Uint32(self.a.batch):
            self.check_request(Int32(request))
            request += Uint32(grid * self.threads)

    @cute.jit
    def check_offsets(self, request):
        """The query offsets of a request."""
        a = self.a
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
    def tell(self, kind: cutlass.Constexpr):
        """What the lanes of this warp have found; all lanes."""
        found = self.found[kind]
        votes = cute.arch.vote_ballot_sync(found[MANY] != 0)
        if votes != 0:
            many = warp_reduce(Int32(found[MANY]), lambda x, y: x + y)
            if cute.arch.lane_idx() == cute.arch.popc(~votes & (votes - 1)):
                self.write(self.a.findings + kind * (params.FINDING_BYTES // 8), found, many)

    @cute.jit
    def write(self, record, found: cute.Tensor, many):
        cute.arch.atomic_add(record + params.FOUND, Int64(many), sem="relaxed", scope="gpu")
        cute.arch.inline_ptx("fence.sc.sys;")  # the host has one, too, between its write and its read
        reports = Int64(cute.arch.load(record + params.REPORTS, Int64, sem="relaxed", scope="sys"))
        claim = {"cmp": reports, "val": reports + 1}
        if cute.arch.atomic_cas(record + params.CLAIMED, **claim, sem="relaxed", scope="gpu") == reports:
            cute.arch.store(record + params.PLACE, found[PLACE], sem="relaxed", scope="sys")
            cute.arch.store(record + params.TOKEN, found[TOKEN], sem="relaxed", scope="sys")
            cute.arch.store(record + params.VALUE, found[VALUE], sem="relaxed", scope="sys")
            cute.arch.store(record + params.LIMIT, found[LIMIT], sem="relaxed", scope="sys")
            cute.arch.store(record + params.READY, reports + 1, sem="release", scope="sys")
