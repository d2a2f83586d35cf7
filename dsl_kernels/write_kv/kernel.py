"""Rows of tokens into the pages of a KV cache, as they are or quantised: a warp a token, bound by memory.

A lane has 16 columns: it reads them with 16-byte loads, finds with its neighbours the largest magnitude of the tile,
and writes 16 codes at once. Of columns 512 to 575 lanes 0 to 7 have 8 each, but where one scale is given for all: there
rows have any number of columns. What is read of a token does not depend on its slot, so it is asked for before the slot
is known.

A slot that several tokens name must hold one of them whole, and warps run in any order. Of few tokens each warp looks
at the slots of all later ones, and leaves its own to them (SEARCH). Of many, a first launch writes the number of each
token into the first 8 bytes of its row (MARK), where one of them stays; the second writes the tokens whose number is
there (MARKED). The number stands beside four bytes of 0xff. A code is never 0xff, so that no token takes another's
columns for its number; in a cache that is not quantised two bfloat16 would have to be that one of all NaNs, and the two
before them the number of a token with the same slot.
"""

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float16, Float32, Int32, Int64, Uint8, Uint32, max

from dsl_kernels.core.params import Named
from dsl_kernels.core.schedule import address

from .config import Variant
from .params import BLOCKS, MARK, MARKED, PARAMS, SEARCH

COLUMNS = 16  # of a lane
HALF = 8  # 16 bytes of a 2-byte type
WARP_COLUMNS = 32 * COLUMNS
VECTORS = 4  # of a lane at once, of a row that is copied; of one that is quantised two
SEARCHED = 4  # slots of a lane, in flight
INFINITY, NAN = 0x7F800000, 0x7FC00000
CODES_NAN = 0x7F7F7F7F


class WriteKv:
    def __init__(self, variant: Variant):
        self.threads = variant.threads
        self.cluster = 1
        self.shared_bytes = 0

    @cute.jit
    def __call__(self, args: tuple, stream: cuda.CUstream):
        at_once = {"min_blocks_per_mp": BLOCKS, "preferred_smem_carveout": 0}  # the latter is the launcher's
        self.kernel(args).launch(grid=(1, 1, 1), block=(self.threads, 1, 1), stream=stream, **at_once)

    @cute.kernel
    def kernel(self, args: tuple):
        self.a = a = Named(PARAMS, args)
        tid, _, _ = cute.arch.thread_idx()
        bid, _, _ = cute.arch.block_idx()
        grid, _, _ = cute.arch.grid_dim()
        lane = tid % 32
        cute.arch.griddepcontrol_launch_dependents()
        cute.arch.griddepcontrol_wait()
        token = Uint32(bid + tid // 32 * grid)  # without sign: the next one may be beyond 2^31
        step = Uint32(self.threads // 32 * grid)
        if a.manner == MARK:
            self.mark_tokens(Uint32(bid * self.threads + tid), Uint32(self.threads * grid))
        elif a.copied != 0:
            self.copy_tokens(token, step, lane)
        elif a.encoded != 0:
            self.encode_tokens(token, step, lane)
        else:
            self.quantize_tokens(token, step, lane)

    @cute.jit
    def slot_of(self, token):
        a = self.a
        slot = Int64(token)
        if address(a.slots) != 0:
            where = address(a.slots) + Int64(token) * a.slots_step
            if a.wide_slots != 0:
                slot = number_at(Int64, where)
            else:
                slot = Int64(number_at(Int32, where))
        return slot

    @cute.jit
    def place_of(self, slot):
        """(Page, row in it); of a slot outside the cache, anything."""
        a = self.a
        block = Int64(0)
        if a.num_slots < 1 << 31:
            block = Int64(Uint32(slot) // Uint32(a.page_size))
        else:
            block = slot // Int64(a.page_size)
        return block, slot - block * Int64(a.page_size)

    @cute.jit
    def mark_tokens(self, token, step):
        """A thread a token."""
        a = self.a
        while token < Uint32(a.num_tokens):
            slot = self.slot_of(Int32(token))
            if slot >= 0 and slot < a.num_slots:
                block, place = self.place_of(slot)
                put(Int64, address(a.pages) + block * a.block_step + place * a.row_step, mark_of(Int32(token)))
            token += step

    @cute.jit
    def writes(self, token, slot, row, lane):
        """Whether this token, and no other one, writes its slot, which is at address `row`."""
        a = self.a
        mine = slot >= 0 and slot < a.num_slots
        if mine and a.manner == MARKED:
            # The vote: no lane writes the row before all have looked.
            mine = cute.arch.vote_ballot_sync(fresh_number_at(row) == mark_of(token)) != 0
        if mine and a.manner == SEARCH:
            mine = self.is_last(token, slot, lane)
        return mine

    @cute.jit
    def is_last(self, token, slot, lane):
        """Whether no later token has the slot."""
        later = Int32(0)
        for first in cutlass.range(token + 1 + lane, self.a.num_tokens, 32 * SEARCHED, unroll=1):
            others = cute.make_rmem_tensor((SEARCHED,), Int64)
            others.fill(-1)
            for i in cutlass.range_constexpr(SEARCHED):
                if first + 32 * i < self.a.num_tokens:
                    others[i] = self.slot_of(first + 32 * i)
            for i in cutlass.range_constexpr(SEARCHED):
                later = later | Int32(others[i] == slot)
        return cute.arch.vote_ballot_sync(later != 0) == 0

    @cute.jit
    def source_of(self, at):
        """Where byte `at` of the columns given is of token 0, and the step to the next. The border of latent and rope
        is at a multiple of what a lane reads.
        """
        a = self.a
        where, step = address(a.latent) + Int64(at), a.latent_step
        if at >= a.latent_bytes:
            where, step = address(a.rope) + Int64(at - a.latent_bytes), a.rope_step
        return where, step

    @cute.jit
    def copy_tokens(self, token, step, lane):
        a = self.a
        while token < Uint32(a.num_tokens):
            slot = self.slot_of(Int32(token))
            given = cute.make_rmem_tensor((4, VECTORS), Int32)
            self.load_vectors(given, Int32(token), 16 * lane)
            block, place = self.place_of(slot)
            row = address(a.pages) + block * a.block_step + place * a.row_step
            if self.writes(Int32(token), slot, row, lane):
                self.store_vectors(given, row, 16 * lane)
                for first in cutlass.range(16 * (lane + 32 * VECTORS), a.given_bytes, 16 * 32 * VECTORS, unroll=1):
                    self.load_vectors(given, Int32(token), first)
                    self.store_vectors(given, row, first)
            token += step

    @cute.jit
    def load_vectors(self, given: cute.Tensor, token, first):
        for i in cutlass.range_constexpr(VECTORS):
            at = first + 16 * 32 * i
            if at < self.a.given_bytes:
                where, step = self.source_of(at)
                cute.autovec_copy(memory(Int32, where + Int64(token) * step, 4), given[None, i])

    @cute.jit
    def store_vectors(self, given: cute.Tensor, row, first):
        for i in cutlass.range_constexpr(VECTORS):
            at = first + 16 * 32 * i
            if at < self.a.given_bytes:
                cute.autovec_copy(given[None, i], memory(Int32, row + Int64(at), 4))

    @cute.jit
    def quantize_tokens(self, token, step, lane):
        a = self.a
        column, column_behind = COLUMNS * lane, WARP_COLUMNS + HALF * lane
        source, source_step = self.source_of(2 * column)
        source_behind, step_behind = self.source_of(2 * column_behind)
        while token < Uint32(a.num_tokens):
            slot = self.slot_of(Int32(token))
            given = cute.make_rmem_tensor((COLUMNS // 2,), Int32)
            behind = cute.make_rmem_tensor((HALF // 2,), Int32)
            cute.autovec_copy(memory(Int32, source + Int64(token) * source_step, COLUMNS // 2), given)
            if column_behind < a.columns:
                cute.autovec_copy(memory(Int32, source_behind + Int64(token) * step_behind, HALF // 2), behind)
            block, place = self.place_of(slot)
            page = address(a.pages) + block * a.block_step
            row = page + place * a.row_step
            if self.writes(Int32(token), slot, row, lane):
                largest = self.largest_of(given)
                if column < a.quantized:
                    scales = page + a.scales_at + place * Int64(a.scales_step)
                    self.store_tile(given, largest, row, scales, lane)
                else:
                    self.store_rope(given, row, column)
                if column_behind < a.columns:
                    self.store_rope(behind, row, column_behind)
            token += step

    @cute.jit
    def encode_tokens(self, token, step, lane):
        """Codes of columns with one scale, of any size and sign. Quotients are those of columns and scale times a power
        of two that makes neither the rest of a division nor its divisor subnormal.
        """
        a = self.a
        scale = Float32(1.0)
        if address(a.descale) != 0:
            scale = number_at(Float32, address(a.descale))
        size = float_of(bits_of(scale) & 0x7FFFFFFF)
        factor = Float32(1.0)
        if size < 2.0**-60:
            factor = Float32(2.0**96)
        if size > 2.0**100:
            factor = Float32(2.0**-96)
        divisor = size * factor
        if bits_of(scale) < 0:
            factor = -factor
        inverse = inverse_of(divisor)
        column, column_behind = COLUMNS * lane, WARP_COLUMNS + HALF * lane
        source, source_step = self.source_of(2 * column)
        source_behind, step_behind = self.source_of(2 * column_behind)
        while token < Uint32(a.num_tokens):
            slot = self.slot_of(Int32(token))
            given = cute.make_rmem_tensor((COLUMNS // 2,), Int32)
            behind = cute.make_rmem_tensor((HALF // 2,), Int32)
            if column < a.columns:
                cute.autovec_copy(memory(Int32, source + Int64(token) * source_step, COLUMNS // 2), given)
            if column_behind < a.columns:
                cute.autovec_copy(memory(Int32, source_behind + Int64(token) * step_behind, HALF // 2), behind)
            block, place = self.place_of(slot)
            row = address(a.pages) + block * a.block_step + place * a.row_step
            if self.writes(Int32(token), slot, row, lane):
                if column < a.columns:
                    self.store_codes(given, row, column, divisor, inverse, factor)
                if column_behind < a.columns:
                    self.store_codes(behind, row, column_behind, divisor, inverse, factor)
                for more in cutlass.range(column_behind + 32 * HALF, a.columns, 32 * HALF, unroll=1):
                    where, where_step = self.source_of(2 * more)
                    cute.autovec_copy(memory(Int32, where + Int64(token) * where_step, HALF // 2), behind)
                    self.store_codes(behind, row, more, divisor, inverse, factor)
            token += step

    @cute.jit
    def store_codes(self, given: cute.Tensor, row, column, divisor, inverse, factor):
        """Codes of the lane's columns times `factor`, over `divisor`."""
        count = 2 * cute.size(given)
        columns = cute.make_rmem_tensor((count,), Float32)
        self.widen(given, columns)
        if inverse == 0.0 or divisor == 0.0:  # of an infinite scale, and of 0: products do, and no division would
            for i in cutlass.range_constexpr(count):
                columns[i] = columns[i] * factor * inverse
        else:
            for i in cutlass.range_constexpr(count):
                column_within = within(columns[i] * factor, 512 * divisor)  # beyond it the code is that of 448
                columns[i] = divided(column_within, divisor, inverse)
        codes = cute.make_rmem_tensor((count // 4,), Int32)
        for i in cutlass.range_constexpr(count // 4):
            codes[i] = four_codes(columns[4 * i], columns[4 * i + 1], columns[4 * i + 2], columns[4 * i + 3])
        cute.autovec_copy(codes, memory(Int32, row + Int64(column), count // 4, count))

    @cute.jit
    def largest_of(self, given: cute.Tensor):
        """The bits of the largest magnitude of the tile, as float32. As 16 bits they order as the numbers do, with
        infinity and then NaN above.
        """
        largest = given[0] & 0x7FFF7FFF
        for i in cutlass.range_constexpr(1, COLUMNS // 2):
            largest = larger_halves(largest, given[i] & 0x7FFF7FFF)
        for shift in cutlass.range_constexpr(3):
            other = cute.arch.shuffle_sync_bfly(largest, 1 << shift)
            largest = larger_halves(largest, other) if shift < self.a.tile_shift else largest
        largest = max(largest & 0xFFFF, largest >> 16) << 16
        return bits_of(half_in_top(largest)) if self.a.float16 != 0 else largest

    @cute.jit
    def widen(self, given: cute.Tensor, columns: cute.Tensor):
        """Columns as float32."""
        if self.a.float16 != 0:
            columns.store(cute.recast_tensor(given, Float16).load().to(Float32))
        else:
            columns.store(cute.recast_tensor(given, BFloat16).load().to(Float32))

    @cute.jit
    def store_tile(self, given: cute.Tensor, largest, row, scales, lane):
        """Writes the scale of the tile, and the lane's codes."""
        a = self.a
        columns = cute.make_rmem_tensor((COLUMNS,), Float32)
        self.widen(given, columns)
        finite = largest < INFINITY
        scale = max(((largest + 0x1FFFFF) & INFINITY) - (8 << 23), Int32(114 << 23))  # see formats/tiles.c
        if a.unrounded != 0:
            exact = cute.arch.fmax(divided(float_of(largest), Float32(448.0), Float32(1 / 448)), Float32(1e-4))
            scale = bits_of(exact)
            inverse = inverse_of(exact)
            for i in cutlass.range_constexpr(COLUMNS):
                columns[i] = divided(columns[i], exact, inverse)
        else:
            inverse = float_of(Int32(254 << 23) - scale)
            for i in cutlass.range_constexpr(COLUMNS):
                columns[i] = columns[i] * inverse
        codes = cute.make_rmem_tensor((4,), Int32)
        for i in cutlass.range_constexpr(4):
            found = four_codes(columns[4 * i], columns[4 * i + 1], columns[4 * i + 2], columns[4 * i + 3])
            codes[i] = found if finite else Int32(CODES_NAN)
        cute.autovec_copy(codes, memory(Int32, row + COLUMNS * Int64(lane), 4))
        scale = scale if finite else Int32(NAN)
        tile = Int64(lane >> a.tile_shift)
        if lane & ((1 << a.tile_shift) - 1) == 0:
            if a.byte_scales != 0:
                put(Uint8, scales + tile, Uint8(scale >> 23 & 0xFF))
            else:
                put(Int32, scales + 4 * tile, scale)

    @cute.jit
    def store_rope(self, given: cute.Tensor, row, column):
        """Columns in bfloat16: those that are it, bit by bit."""
        a = self.a
        words = cute.make_rmem_tensor_like(given)
        words.store(given.load())
        if a.float16 != 0:
            rounded = cute.recast_tensor(words, BFloat16)
            rounded.store(cute.recast_tensor(given, Float16).load().to(Float32).to(BFloat16))
        where = row + Int64(a.rope_at) + 2 * Int64(column - a.quantized)
        cute.autovec_copy(words, memory(Int32, where, cute.size(words)))


def memory(dtype, where, count, align=16):
    """Neighbours in memory, at an address."""
    return cute.make_tensor(cute.make_ptr(dtype, where, cute.AddressSpace.gmem, assumed_align=align), count)


def number_at(dtype, where):
    return memory(dtype, where, 1, dtype.width // 8)[0]


def put(dtype, where, value):
    memory(dtype, where, 1, dtype.width // 8)[0] = value


def mark_of(token):
    """The number of a token beside four bytes of 0xff."""
    return Int64(token) - Int64(1 << 32)


@cute.jit
def fresh_number_at(where):
    """What other warps may be writing."""
    return cute.arch.inline_ptx(
        "ld.relaxed.gpu.global.b64 {$w0}, [{$r0}];", write_only_types=[Int64], read_only_args=[Int64(where)]
    )


@cute.jit
def larger_halves(x, y):
    """The larger one of each 16 bits, without sign."""
    return cute.arch.inline_ptx(
        "max.u16x2 {$w0}, {$r0}, {$r1};", write_only_types=[Int32], read_only_args=[Int32(x), Int32(y)]
    )


@cute.jit
def half_in_top(bits):
    """A float16 in the upper 16 bits, as float32."""
    return cute.arch.inline_ptx(
        "{ .reg .b16 low, high; mov.b32 {low, high}, {$r0}; cvt.f32.f16 {$w0}, high; }",
        write_only_types=[Float32],
        read_only_args=[Int32(bits)],
    )


@cute.jit
def bits_of(x):
    return cute.arch.inline_ptx("mov.b32 {$w0}, {$r0};", write_only_types=[Int32], read_only_args=[Float32(x)])


@cute.jit
def float_of(bits):
    return cute.arch.inline_ptx("mov.b32 {$w0}, {$r0};", write_only_types=[Float32], read_only_args=[Int32(bits)])


@cute.jit
def inverse_of(x):
    """1 / x, to nearest."""
    return cute.arch.inline_ptx("rcp.rn.f32 {$w0}, {$r0};", write_only_types=[Float32], read_only_args=[Float32(x)])


@cute.jit
def divided(x, y, inverse):
    """x / y for y > 0, to nearest unless it is below 2^-100, by 1 / y to nearest: P. Markstein, IBM Journal of Research
    and Development 34 (1990), theorem 7. The sign is that of x: of zero it would be lost.
    """
    return cute.arch.inline_ptx(
        "{ .reg .f32 q, r; mul.rn.f32 q, {$r0}, {$r2}; neg.f32 r, q; fma.rn.f32 r, r, {$r1}, {$r0};"
        " fma.rn.f32 q, r, {$r2}, q; copysign.f32 {$w0}, {$r0}, q; }",
        write_only_types=[Float32],
        read_only_args=[Float32(x), Float32(y), Float32(inverse)],
    )


@cute.jit
def within(x, bound):
    """x, or the bound that it is beyond; NaN stays NaN."""
    return cute.arch.inline_ptx(
        "{ .reg .f32 low; neg.f32 low, {$r1}; max.NaN.f32 low, low, {$r0}; min.NaN.f32 {$w0}, low, {$r1}; }",
        write_only_types=[Float32],
        read_only_args=[Float32(x), Float32(bound)],
    )


@cute.jit
def four_codes(a, b, c, d):
    """Four numbers as float8_e4m3fn, to nearest, ties to even, at most 448; the first in the lowest byte."""
    low, high = (
        cute.arch.inline_ptx(
            "cvt.rn.satfinite.e4m3x2.f32 {$w0}, {$r0}, {$r1};",
            write_only_types=[cutlass.Int16],
            read_only_args=[Float32(y), Float32(x)],
        )
        for x, y in ((a, b), (c, d))
    )
    return (Int32(high) << 16) | (Int32(low) & 0xFFFF)
