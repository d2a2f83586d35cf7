"""Counts the values of a decode step that dense_decode would read clamped: lengths, query offsets, page numbers."""

import cutlass.cute as cute
from cutlass import Int32, Int64, Uint32, max, min

from dsl_kernels.core import attended, schedule
from dsl_kernels.core import finding_params as kinds
from dsl_kernels.core.findings import Checker

from .params import PARAMS


class CheckDecode(Checker):
    PARAMS = PARAMS
    KINDS = (kinds.LENGTH, kinds.OFFSET, kinds.ORDER, kinds.COUNT, kinds.PAGE, kinds.GLOBAL_LENGTH)

    @cute.jit
    def look(self):
        tid, _, _ = cute.arch.thread_idx()
        bid, _, _ = cute.arch.block_idx()
        grid, _, _ = cute.arch.grid_dim()
        self.check_requests()
        request = Uint32(bid)
        while request < Uint32(self.a.batch):
            if schedule.address(self.a.block_table) != 0:
                self.check_pages(Int32(request), tid)
            request += Uint32(grid)

    @cute.jit
    def check_request(self, request):
        """Its lengths and query offsets."""
        a = self.a
        length = schedule.element(a.lengths, request)
        self.note(kinds.LENGTH, (length < 0) or (length > a.capacity), request, request, length, a.capacity)
        if schedule.address(a.global_seqlens) != 0:
            tokens = schedule.element(a.global_seqlens, request)
            self.note(kinds.GLOBAL_LENGTH, tokens < 0, request, request, tokens, Int32(0))
        self.check_offsets(request)

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
            self.note(kinds.PAGE, Uint32(number) >= Uint32(a.num_blocks), request, Int32(column), number, a.num_blocks)
            column += Uint32(self.threads)

    @cute.jit
    def first_page(self, length, count):
        """That in which the window of its first query token begins."""
        a, page = self.a, Int32(0)
        if a.window > 0:
            page = max(max(length - a.causal * (max(count, 1) - 1), 0) - a.window, 0) // a.page_size
        return page
