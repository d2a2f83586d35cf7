"""Rows of 8-bit codes that the producer fetches (producer.py) and PV's warps make into bfloat16 in the slot
(fed_pv.py); codes.py says how numbers come of codes. Where a pair of CTAs makes a unit's rows together each makes half,
a stretch, for both: what a warp has made it copies to the same place of the other CTA, whose `full` barrier counts the
bytes. RoPE parts that take turns each CTA fetches for itself.

Rows are worked on by eights, four at a time: a warp of PV makes four slices of an eight, and two such fours of a unit;
of a stretch one slice of its four eights. Of an eight, the codes of slices 2 i and 2 i + 1 come where numbers of the
latter will be, a row of both in a row of that, with its halves exchanged in odd rows: no load touches a bank twice.
(A slice whose neighbour is RoPE parts has its codes itself.) Scales of both, a word a row, come where numbers of the
former will be; a word that has those of four slices comes twice. So whoever makes either slice has its codes and scales
in registers before anything of both is written.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64, const_expr

from dsl_kernels.core import async_copy
from dsl_kernels.core.codes import power_of_two
from dsl_kernels.core.schedule_params import STRIPE, UNIT
from dsl_kernels.core.threads import lane_now

from .codes import load_word, load_words, make
from .queries import SLICE_BYTES
from .rows import WARP_BYTES, Rows

STRETCH = UNIT // 2  # rows
STRETCH_BYTES = STRETCH * 128  # of numbers of a slice
EIGHT, FOUR = 8, 4  # rows; slices of an eight, or eights of a slice
EIGHT_BYTES = EIGHT * 128
ROPE_SLICE = 7  # where RoPE parts are that are columns of V


class MadeCodes(Rows):
    COPIES_ARRIVE = False

    def __init__(self, kernel, codes):
        super().__init__(kernel)
        self.codes, self.short = codes, codes.rope_in_v  # short: 64 columns less of codes
        self.paired = kernel.cluster > 1
        self.eights = 1 if self.paired else 2  # that a warp of the producer fetches
        self.fours = 1 if self.paired else 2  # that a warp of PV makes
        self.slices = 2 * kernel.half_slices
        self.coded = ROPE_SLICE if self.short else self.slices  # slices of codes
        # slices of a four whose scales are in one word: those of a stretch are of different rows
        self.per_word = 1 if self.paired else FOUR if codes.tile == 64 else 2

    def start_of(self, slot, which, warp):
        """Address of a warp's rows in a slice."""
        first = self.kernel.rank * STRETCH_BYTES if self.paired else 0
        return self.kernel.smem.slice_start(slot, which).toint() + first + warp * (EIGHT_BYTES * self.eights)

    def is_coded(self, which):
        """Whether a slice is one of codes: one is not where RoPE parts are columns of V."""
        return which < self.coded if const_expr(self.short) else True

    # ---- fetching

    @cute.jit
    def row(self, warp, lane):
        """Of a unit: that of which a lane has the address. Of a pair, lanes 0 to 15 have the rows whose RoPE parts the
        warp fetches and of which it tells whether they are attended, lanes 16 to 31 twice those whose codes it fetches;
        else both have those that are all of that.
        """
        row = warp * STRIPE + lane % STRIPE
        if const_expr(self.paired):
            if lane >= STRIPE:
                row = STRETCH * self.kernel.rank + EIGHT * warp + lane % EIGHT
        return row

    @cute.jit
    def start_whole(self, slot, warp, address, scales, valid):
        """Starts the loads of a warp's rows, all columns but RoPE parts that take turns: four rows at a time, 128 bytes
        of each by eight lanes, codes of two slices.
        """
        lane = lane_now(slot)
        row, column, there = lane >> 3, lane & 7, self.start_of(slot, 0, warp)
        to = there + row * 128 + ((column ^ ((row & 1) << 2)) << 4)
        rope = there + SLICE_BYTES * ROPE_SLICE + row * 128 + ((column ^ row) << 4)
        for i in cutlass.range_constexpr(2 * self.eights):
            source, size = row_of_lane(address, valid, self.first_lane() + 4 * i + row)
            source += 16 * column
            for j in cutlass.range_constexpr(0, 2 * FOUR, 2):
                if const_expr(self.short and j == ROPE_SLICE - 1):
                    if column < 4:
                        async_copy.copy_16(to + (SLICE_BYTES * j + 512 * i), source + 64 * j, size)
                else:
                    async_copy.copy_16(to + (SLICE_BYTES * (j + 1) + 512 * i), source + 64 * j, size)
            if const_expr(self.short):
                async_copy.copy_16((rope ^ (64 * (i % 2))) + 512 * i, source + self.codes.rope_at, size)
        where = scales if const_expr(self.codes.scales_at is None) else address
        for eight in cutlass.range_constexpr(self.eights):
            self.start_scales(there + EIGHT_BYTES * eight, lane, self.first_lane() + EIGHT * eight, where, valid)

    @cute.jit
    def start_scales(self, there, lane, first, address, valid):
        """Those of an eight, whose rows' addresses lanes from `first` on have: of each row, by a lane, a word for two
        slices.
        """
        row, pair = lane >> 2, lane & 3
        source, size = row_of_lane(address, valid, first + row)
        source += 4 * (pair >> 1 if self.codes.tile == 64 else pair)
        if const_expr(self.codes.scales_at is not None):
            source += self.codes.scales_at
        to = there + 2 * SLICE_BYTES * pair + 4 * row
        if const_expr(self.short):
            if pair == 3:
                to += self.beside_codes(row)
        async_copy.copy_4(to, source, size >> 2)

    def beside_codes(self, row):
        """Bytes from where a scale else is to where it is of a slice that has its codes itself: in the half of the row
        that they leave.
        """
        return 124 * row + 64 - ((row & 1) << 6)

    def first_lane(self):
        """That of the first row whose codes a warp fetches."""
        return STRIPE if self.paired else 0

    @cute.jit
    def start_rope(self, item, warp, address, valid):
        """Starts the loads of 16 rows' RoPE parts, which have slices beside the slots."""
        there = self.kernel.smem.last_start(item, 0).toint() + warp * WARP_BYTES
        self.start_columns(there, lane_now(item), address, valid, self.codes.rope_at)

    def start_row(self, column, to, source, size):
        async_copy.copy_16(to, source + column, size)

    # ---- making

    @cute.jit
    def make(self, half, slot, warp, begin, end):
        """Makes numbers of a warp's codes: of its fours [begin, end)."""
        if const_expr(self.paired):
            self.make_four(self.start_of(slot, 0, 0), self.own_slice(half, warp), half, warp)
        else:
            there = self.start_of(slot, 0, warp) + EIGHT_BYTES * half
            for first in cutlass.range(FOUR * begin, FOUR * end, FOUR, unroll=1):
                self.make_four(there, first, half, warp)

    def own_slice(self, half, warp):
        """That which a warp of a pair makes."""
        return FOUR * half + warp

    def of_four(self, first, i):
        """Of the i-th of four: bytes to its eight, its slice, whether that is odd. first: the first one's."""
        return (EIGHT_BYTES * i, first, first & 1) if self.paired else (0, first + i, i & 1)

    @cute.jit
    def make_four(self, there, first, half, warp):
        """there: where the first eight is in slice 0."""
        lane = lane_now(first)  # what follows from it is not worked out before all fours and kept
        row, column = lane >> 2, lane & 3
        codes = [self.load_codes(there, row, column, first, i) for i in range(FOUR)]
        scales = []
        for i in cutlass.range_constexpr(FOUR):
            shared = i % self.per_word
            scales.append(scales[i - shared] if const_expr(shared > 0) else self.load_scales(there, row, first, i))
        # Numbers go now over codes and scales that all have, in a pair the warp of the other slice, too.
        if const_expr(self.paired):
            self.kernel.bars.sync_two_warps(half, warp)
        else:
            cute.arch.sync_warp()
        to = there + row * 128 + (((2 * column) ^ row) << 4)
        for i in cutlass.range_constexpr(FOUR):
            eight, which, _ = self.of_four(first, i)
            if self.is_coded(which):
                make(codes[i], to + (eight + SLICE_BYTES * which), self.scale_of(scales[i], first, i, column))

    @cute.jit
    def load_codes(self, there, row, column, first, i: cutlass.Constexpr):
        """16 codes of a lane."""
        eight, which, odd = self.of_four(first, i)
        chunk, of = (column + 4 * odd) ^ ((row & 1) << 2), which + 1 - odd
        if const_expr(self.short):
            of = which if which == ROPE_SLICE - 1 else of
        return load_words(there + (eight + SLICE_BYTES * of) + row * 128 + (chunk << 4))

    @cute.jit
    def load_scales(self, there, row, first, i: cutlass.Constexpr):
        """The word with the scale of what load_codes() gives."""
        eight, which, odd = self.of_four(first, i)
        at = there + (eight + SLICE_BYTES * (which - odd)) + row * 4
        if const_expr(self.short and self.paired):
            if which == ROPE_SLICE - 1:
                at += self.beside_codes(row)
        return load_word(at)

    @cute.jit
    def scale_of(self, word, first, i: cutlass.Constexpr, column):
        """That scale, in float32's bits."""
        if const_expr(self.codes.scales_at is None):
            _, which, odd = self.of_four(first, i)
            byte = 2 * odd + (column >> 1)
            if const_expr(self.codes.tile == 64):  # a word is of four slices: all that a warp makes together, or one
                byte = which & 3 if const_expr(self.paired) else i
            word = power_of_two((word >> (8 * byte)) & 0xFF)
        return word

    @cute.jit
    def announce(self, slot):
        """To this CTA's barrier what the other one will share of a unit."""
        with cute.arch.elect_one():
            cute.arch.mbarrier_expect_tx(self.kernel.bars.full(slot), self.slices * STRETCH_BYTES)

    @cute.jit
    def share(self, half, slot, warp):
        """Copies what this warp has made and shown to the other CTA."""
        cute.arch.sync_warp()
        with cute.arch.elect_one():
            which = self.own_slice(half, warp)
            copy_to(self.start_of(slot, which, 0), self.kernel.bars.full(slot), 1 - self.kernel.rank)


@cute.jit
def row_of_lane(address, valid, lane):
    """(Address that another lane has, bytes that are read there at a time: 16 or 0)."""
    low, high = Int32(address & 0xFFFFFFFF), Int32(address >> 32)
    there = (Int64(cute.arch.shuffle_sync(high, lane)) << 32) | (Int64(cute.arch.shuffle_sync(low, lane)) & 0xFFFFFFFF)
    return there, ((valid >> lane) & 1) << 4


def copy_to(address, barrier, rank):
    """The numbers of a stretch to the same place in a CTA of the cluster, whose barrier counts the bytes."""
    cute.arch.inline_ptx(
        "{ .reg .b32 to, bar; mapa.shared::cluster.u32 to, {$r0}, {$r2}; mapa.shared::cluster.u32 bar, {$r1}, {$r2};"
        " cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes"
        f" [to], [{{$r0}}], {STRETCH_BYTES}, [bar]; }}",
        read_only_args=[Int32(address), Int32(barrier.toint()), Int32(rank)],
    )
