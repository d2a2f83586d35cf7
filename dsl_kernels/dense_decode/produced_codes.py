"""Rows of codes that the producer fetches (producer.py) and PV makes into bfloat16 in the slot (fed_pv.py), in two
steps, between which a product may end. Where codes come, and what becomes of them, says codes.py.
"""

import cutlass
import cutlass.cute as cute
from cutlass import const_expr

from dsl_kernels.core import async_copy
from dsl_kernels.core.threads import lane_now

from .codes import CodedRows
from .rows import WARP_BYTES

ROPE = "rope"  # as columns of a row


class ProducedCodes(CodedRows):
    @cute.jit
    def start_whole(self, slot, warp, address, scales, valid):
        """Starts the loads of a warp's rows, all columns."""
        self.start_slices(slot, warp, address, valid, 0, 1)
        for half in (0, 1):
            self.start_scales(half, slot, warp, address, scales, valid)

    @cute.jit
    def start_rope(self, item, warp, address, valid):
        """Starts those of the RoPE parts, which have slices beside the slots."""
        there = self.kernel.smem.last_start(item, 0).toint() + warp * WARP_BYTES
        self.start_columns(there, lane_now(item), address, valid, ROPE)

    def start_row(self, columns, to, source, size):
        if columns is ROPE:
            async_copy.copy_16(to, source + self.codes.rope_at, size)
        else:
            CodedRows.start_row(self, columns, to, source, size)

    @cute.jit
    def make_first(self, half, slot, warp):
        """Makes one part of this warp's codes into numbers; returns the scales of both, a lane's own."""
        lane = lane_now(slot)
        row, source, to = self.places_of(lane)
        scales = self.load_scales(half, slot, warp, lane)
        cute.arch.sync_warp()  # numbers go there now
        self.make(half, slot, warp, row, source, to, scales, 0)
        return scales

    @cute.jit
    def make_second(self, half, slot, warp, scales):
        """The other part."""
        row, source, to = self.places_of(lane_now(slot))
        self.make(half, slot, warp, row, source, to, scales, 1)

    @cute.jit
    def make(self, half, slot, warp, row, source, to, scales, part: cutlass.Constexpr):
        special = cute.arch.vote_any_sync(self.special_bits(scales) != 0)
        codes = self.load_part(half, slot, warp, source, part)
        if const_expr(part == 1):
            cute.arch.sync_warp()  # all have read what numbers go over now
        self.make_part(half, codes, to + self.place(slot, 4 * half + 2 * part, warp), scales, row, special, part)
