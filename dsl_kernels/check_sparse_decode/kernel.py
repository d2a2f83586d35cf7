"""Counts the values of a step of sparse decode that sparse_decode would read clamped or pass over: lengths, query
offsets, and of the indices that count those which are neither a slot nor NO_SLOT.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64, Uint32, max, min

from dsl_kernels.core import finding_params as kinds
from dsl_kernels.core import schedule
from dsl_kernels.core.findings import Checker

from .params import PARAMS


class CheckSparseDecode(Checker):
    PARAMS = PARAMS
    KINDS = (
        *(kinds.OFFSET, kinds.ORDER, kinds.COUNT, kinds.TOPK_LENGTH, kinds.EXTRA_TOPK_LENGTH),
        *(kinds.INDEX, kinds.EXTRA_INDEX),
    )

    @cute.jit
    def look(self):
        bid, _, _ = cute.arch.block_idx()
        grid, _, _ = cute.arch.grid_dim()
        self.check_requests()
        number, tokens = Uint32(bid), Uint32(self.a.batch) * Uint32(self.a.s_q)
        while number < tokens:
            request = Int32(number // Uint32(self.a.s_q))
            self.check_token(request, Int32(number) - request * self.a.s_q)
            number += Uint32(grid)

    @cute.jit
    def check_request(self, request):
        """Its lengths and query offsets."""
        a = self.a
        self.check_length(kinds.TOPK_LENGTH, a.lengths, request, a.capacity)
        self.check_length(kinds.EXTRA_TOPK_LENGTH, a.extra_lengths, request, a.extra_capacity)
        self.check_offsets(request)

    @cute.jit
    def check_length(self, kind: cutlass.Constexpr, lengths, request, most):
        if schedule.given(lengths):
            length = schedule.element(lengths, request)
            self.note(kind, (length < 0) or (length > most), request, request, length, most)

    @cute.jit
    def check_token(self, request, token):
        """The indices that count of a query token, by all threads of the block."""
        a = self.a
        first, count = schedule.query_range(a, request)
        if token < count:
            main, extra = self.counted(a.lengths, request, a.capacity), Int32(0)
            if a.extra_capacity > 0:
                extra = self.counted(a.extra_lengths, request, a.extra_capacity)
            place = Int64(request) * a.indices_stride_b + Int64(first + token) * a.indices_stride_s
            extra_place = Int64(request) * a.extra_indices_stride_b + Int64(first + token) * a.extra_indices_stride_s
            if schedule.by_request(a):  # tokens are told by their number in q
                request, token = Int32(-1), first + token
            self.check_indices(kinds.INDEX, (a.indices, place, a.wide_indices), main, a.slots, request, token)
            selection = a.extra_indices, extra_place, a.extra_wide_indices
            self.check_indices(kinds.EXTRA_INDEX, selection, extra, a.extra_slots, request, token)

    @cute.jit
    def counted(self, lengths, request, most):
        """How many indices of the request's query tokens count."""
        count = most
        if schedule.given(lengths):
            count = min(max(schedule.element(lengths, request), 0), most)
        return count

    @cute.jit
    def check_indices(self, kind: cutlass.Constexpr, selection: tuple, count, slots, request, token):
        """Of a selection: the address of all indices, where the first of these lies, whether they are int64."""
        tid, _, _ = cute.arch.thread_idx()
        indices, place, wide = selection
        if schedule.given(indices):
            base, number = schedule.address(indices), Uint32(tid)
            while number < Uint32(count):
                index, where = Int64(0), place + Int64(number)
                if wide != 0:
                    index = _element(Int64, base + 8 * where)
                else:
                    index = Int64(_element(Int32, base + 4 * where))
                self.note(
                    kind, (index < kinds.NO_SLOT) or (index >= slots), request, Int32(number), index, slots, token
                )
                number += Uint32(self.threads)


def _element(kind, address):
    pointer = cute.make_ptr(kind, address, cute.AddressSpace.gmem, assumed_align=kind.width // 8)
    return cute.make_tensor(pointer, cute.make_layout(1))[0]
