"""Rows of codes that a pair of CTAs fetches and makes into bfloat16 together: each half of a unit's rows, a stretch,
for both. A warp of PV makes a slice of 64 columns of the stretch and copies it to the same place of the other CTA,
whose `full` barrier counts the bytes. RoPE parts that take turns each CTA fetches for itself.

What comes of a slice lies where its numbers will: in the second half of their bytes the codes, 64 bytes a row, in the
first half a word of scales for each row. So a warp needs nobody's leave to make it: it takes scales and codes into
registers before numbers go over them. Places are skewed so that neither copies nor loads and stores of a warp touch a
bank twice: codes of odd slices have rows 2 i and 2 i + 1 exchanged, scales of slice s begin at row -4 s.

Of a warp of the producer lanes 0 to 15 have the 16 rows whose RoPE parts it fetches and of which it tells whether they
are attended, lanes 16 to 31 twice the eight whose codes it fetches.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64, Uint32, const_expr

from dsl_kernels.core import async_copy
from dsl_kernels.core.schedule_params import STRIPE, UNIT
from dsl_kernels.core.threads import lane_now

from .codes import CodedRows, load_word, load_words, make, power_of_two
from .queries import SLICE_BYTES
from .rows import WARP_BYTES

STRETCH = UNIT // 2  # rows
EIGHT, EIGHTS = 8, STRETCH // 8
STRETCH_BYTES = STRETCH * 128  # of numbers of a slice
ROPE_SLICE = 7  # where RoPE parts are that are columns of V


class PairedCodes(CodedRows):
    def start_of(self, slot, which):
        """Address of this CTA's stretch in a slice."""
        return self.kernel.smem.slice_start(slot, which).toint() + self.kernel.rank * STRETCH_BYTES

    # ---- the producer

    @cute.jit
    def row(self, warp, lane):
        """Of a unit: that of which a lane has the address."""
        row = warp * STRIPE + lane
        if lane >= STRIPE:
            row = STRETCH * self.kernel.rank + EIGHT * warp + lane % EIGHT
        return row

    @cute.jit
    def start_whole(self, slot, warp, address, scales, valid):
        """Starts the loads of a warp's eight rows, all columns but RoPE parts that take turns: four rows at a time, 128
        bytes of each by eight lanes, codes of two slices.
        """
        lane = lane_now(slot)
        odd, row = (lane >> 2) & 1, EIGHT * warp + (lane >> 3)
        to = self.start_of(slot, 0) + STRETCH_BYTES // 2 + SLICE_BYTES * odd + ((row ^ odd) << 6) + ((lane & 3) << 4)
        rope = self.start_of(slot, ROPE_SLICE) + row * 128 + (((lane & 7) ^ (lane >> 3)) << 4)
        for i in cutlass.range_constexpr(EIGHT // 4):
            source, size = row_of_lane(address, valid, STRIPE + 4 * i + (lane >> 3))
            source += 16 * (lane & 7)
            for j in cutlass.range_constexpr(3):
                async_copy.copy_16(to + (2 * SLICE_BYTES * j + 256 * i), source + 128 * j, size)
            if self.makes(6 + odd):
                async_copy.copy_16(to + (2 * SLICE_BYTES * 3 + 256 * i), source + 128 * 3, size)
            if const_expr(self.short):
                async_copy.copy_16((rope ^ (64 * i)) + 512 * i, source + self.codes.rope_at, size)
        self.start_scales(slot, warp, lane, scales if const_expr(self.codes.scales_at is None) else address, valid)

    @cute.jit
    def start_scales(self, slot, warp, lane, address, valid):
        """Four rows at a time, of each a word for a slice by a lane."""
        which = lane >> 2
        column = 4 * (which >> (2 if self.codes.tile == 64 else 1))
        if const_expr(self.codes.scales_at is not None):
            column = column + self.codes.scales_at
        for i in cutlass.range_constexpr(EIGHT // 4):
            source, size = row_of_lane(address, valid, STRIPE + 4 * i + (lane & 3))
            to = self.scales_place(slot, which, EIGHT * warp + 4 * i + (lane & 3))
            if self.makes(which):
                async_copy.copy_4(to, source + column, size >> 2)

    def scales_place(self, slot, which, row):
        return self.start_of(slot, which) + ((row + 4 * which) % STRETCH) * 4

    @cute.jit
    def start_rope(self, item, warp, address, valid):
        """Starts the loads of 16 rows' RoPE parts, which have slices beside the slots."""
        there = self.kernel.smem.last_start(item, 0).toint() + warp * WARP_BYTES
        self.start_columns(there, lane_now(item), address, valid, self.codes.rope_at)

    def start_row(self, column, to, source, size):
        async_copy.copy_16(to, source + column, size)

    # ---- PV

    def makes(self, which):
        """Whether a slice is one of codes."""
        return which < ROPE_SLICE if const_expr(self.short) else True

    @cute.jit
    def make_slice(self, slot, which):
        """Makes the codes of a slice into numbers. A lane takes 16 of each of four rows."""
        lane = lane_now(slot)
        row, column, there = lane >> 2, lane & 3, self.start_of(slot, which)
        words = load_word(self.scales_place(slot, which, lane))
        if const_expr(self.short):
            words = words & (((which >> 2) - 1) << 24 | 0xFFFFFF)  # the last byte is padding
        source = there + STRETCH_BYTES // 2 + ((row ^ (which & 1)) << 6) + (column << 4)
        to = there + row * 128 + (((2 * column) ^ row) << 4)
        codes = [load_words(source + 512 * i) for i in range(EIGHTS)]
        found = Uint32(0)
        for four in codes:
            for word in four:
                found = found | ((word & Uint32(0x7F7F7F7F)) + Uint32(0x01010101))
        slow = ((found & Uint32(0x80808080)) != Uint32(0)) or (self.special_bits(words) != 0)
        slow = cute.arch.vote_any_sync(slow)
        cute.arch.sync_warp()  # all have their codes and scales, over which numbers go now
        if slow:
            for i in cutlass.range_constexpr(EIGHTS):
                make(codes[i], to + 1024 * i, self.scale_of_row(words, EIGHT * i + row, which, column), True)
        else:
            for i in cutlass.range_constexpr(EIGHTS):
                make(codes[i], to + 1024 * i, self.scale_of_row(words, EIGHT * i + row, which, column), False)

    @cute.jit
    def scale_of_row(self, words, row, which, column):
        """The scale of 16 codes, in float32's bits. words: those of a row a lane."""
        word = cute.arch.shuffle_sync(words, row)
        if const_expr(self.codes.scales_at is None):
            if const_expr(self.codes.tile == 64):
                word = power_of_two(word >> (8 * (which & 3)) & 0xFF)
            else:
                word = power_of_two(word >> (16 * (which & 1) + 8 * (column >> 1)) & 0xFF)
        return word

    @cute.jit
    def share(self, slot, which):
        """Copies a slice that this warp has made and shown to the other CTA."""
        cute.arch.sync_warp()
        with cute.arch.elect_one():
            copy_to(self.start_of(slot, which), self.kernel.bars.full(slot), 1 - self.kernel.rank)


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
