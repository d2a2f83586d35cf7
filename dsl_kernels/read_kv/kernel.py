"""Tokens from the pages of a KV cache to rows, as they are or dequantised: a warp a token, bound by memory.

The warp finds the request of a row by counting those that begin at it or before it. A lane has 16 columns: it reads 16
codes at once, with the scale of their tile, and writes the products, rounded to float32 and then to the element type of
the rows. Of columns 512 to 575 lanes 0 to 7 have 8 each, but where there is one scale for all: there rows have any
number of columns.
"""

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float16, Float32, Int32, Int64, Uint8, Uint32

from dsl_kernels.core.dtypes import DTYPES
from dsl_kernels.core.params import Named
from dsl_kernels.core.schedule import address

from .config import Variant
from .params import BLOCKS, PARAMS

COLUMNS = 16  # of a lane
HALF = 8  # 16 bytes of a 2-byte type
WARP_COLUMNS = 32 * COLUMNS
VECTORS = 4  # of a lane at once, of a row that is copied
SMALLEST_SCALE = 0x00400000  # 2^-127, whose code is 0
NAN = 0x7FC00000


class ReadKv:
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
        row = Uint32(bid + tid // 32 * grid)  # without sign: the next one may be beyond 2^31
        while row < Uint32(a.num_tokens):
            self.read_row(Int32(row), lane)
            row += Uint32(self.threads // 32 * grid)

    @cute.jit
    def read_row(self, row, lane):
        a = self.a
        wanted, there, block, place = self.place_of(row, lane)
        if wanted:
            to = address(a.out) + Int64(row) * a.out_step
            page = address(a.pages) + Int64(block) * a.block_step
            source = page + Int64(place) * a.row_step
            if a.copied != 0 or not there:
                for first in cutlass.range(16 * lane, a.row_bytes, 16 * 32 * VECTORS, unroll=1):
                    self.copy_vectors(source, to, first, there)
            elif a.encoded != 0:
                self.decode_row(source, to, lane)
            else:
                scales = page + a.scales_at + Int64(place) * Int64(a.scales_step)
                self.dequantize_row(source, scales, to, lane)

    @cute.jit
    def place_of(self, row, lane):
        """(The row is of a request, its token is in the cache, page, row in it)."""
        a = self.a
        wanted, token, request = row >= 0, Int64(row), Int32(0)
        if a.gathers != 0:
            request = self.request_of(row, lane)
            begin, end = Int32(0), Int32(0)
            if request >= 0:
                begin, end = self.offset(request), self.offset(request + 1)
            wanted = row >= begin and row < end
            token = Int64(row) - Int64(begin)
            if wanted and address(a.seq_starts) != 0:
                token += Int64(number_at(Int32, address(a.seq_starts) + 4 * Int64(request) * a.seq_starts_stride))
        capacity = Int64(a.page_size) * Int64(a.max_blocks if a.gathers != 0 else a.num_blocks)
        there = wanted and token >= 0 and token < capacity
        block, place = Int32(0), Int32(0)
        if there:
            block, place = self.page_of(token)
            if a.gathers != 0:
                entry = Int64(request) * a.block_table_stride + Int64(block)
                block = number_at(Int32, address(a.block_table) + 4 * entry)
        there = there and block >= 0 and block < a.num_blocks
        return wanted, there, block, place

    @cute.jit
    def page_of(self, token):
        """(Number of the page, row in it) of a token or slot. It is below 2^32."""
        block = Uint32(token) // Uint32(self.a.page_size)
        return Int32(block), Int32(Uint32(token) - block * Uint32(self.a.page_size))

    @cute.jit
    def offset(self, request):
        a = self.a
        return number_at(Int32, address(a.cu_seqlens) + 4 * Int64(request) * a.cu_seqlens_stride)

    @cute.jit
    def request_of(self, row, lane):
        """The last request that begins at the row or before it, -1 if there is none. Of offsets that are out of order,
        any.
        """
        found = Int32(-1)
        first = Uint32(0)
        while first < Uint32(self.a.batch):
            before = False
            if first + Uint32(lane) < Uint32(self.a.batch):
                before = self.offset(Int32(first) + lane) <= row
            found += cute.arch.popc(cute.arch.vote_ballot_sync(before))
            first += Uint32(32)
        return found

    @cute.jit
    def copy_vectors(self, source, to, first, there):
        """A part of a row; zeros where the token is not there."""
        values = cute.make_rmem_tensor((4, VECTORS), Int32)
        values.fill(0)
        for i in cutlass.range_constexpr(VECTORS):
            at = first + 16 * 32 * i
            if there and at < self.a.row_bytes:
                cute.autovec_copy(memory(Int32, source + Int64(at), 4), values[None, i])
        for i in cutlass.range_constexpr(VECTORS):
            at = first + 16 * 32 * i
            if at < self.a.row_bytes:
                cute.autovec_copy(values[None, i], memory(Int32, to + Int64(at), 4))

    @cute.jit
    def dequantize_row(self, source, scales, to, lane):
        a = self.a
        column, column_behind = COLUMNS * lane, WARP_COLUMNS + HALF * lane
        rope = source + Int64(a.rope_at)
        behind = cute.make_rmem_tensor((HALF // 2,), Int32)
        if column_behind < a.columns:
            cute.autovec_copy(memory(Int32, rope + 2 * Int64(column_behind - a.quantized), HALF // 2), behind)
        if column < a.quantized:
            codes = cute.make_rmem_tensor((4,), Int32)
            cute.autovec_copy(memory(Int32, source + Int64(column), 4), codes)
            self.decode(codes, self.scale_of(scales, lane), to, column)
        else:
            given = cute.make_rmem_tensor((COLUMNS // 2,), Int32)
            cute.autovec_copy(memory(Int32, rope + 2 * Int64(column - a.quantized), COLUMNS // 2), given)
            self.store_rope(given, to, column)
        if column_behind < a.columns:
            self.store_rope(behind, to, column_behind)

    @cute.jit
    def decode_row(self, source, to, lane):
        """A row of codes with one scale."""
        a = self.a
        scale = Float32(1.0)
        if address(a.descale) != 0:
            scale = number_at(Float32, address(a.descale))
        column, column_behind = COLUMNS * lane, WARP_COLUMNS + HALF * lane
        codes = cute.make_rmem_tensor((COLUMNS // 4,), Int32)
        behind = cute.make_rmem_tensor((HALF // 4,), Int32)
        if column < a.columns:
            cute.autovec_copy(memory(Int32, source + Int64(column), COLUMNS // 4), codes)
        if column_behind < a.columns:
            cute.autovec_copy(memory(Int32, source + Int64(column_behind), HALF // 4, HALF), behind)
        if column < a.columns:
            self.decode(codes, scale, to, column)
        if column_behind < a.columns:
            self.decode(behind, scale, to, column_behind)
        for more in cutlass.range(column_behind + 32 * HALF, a.columns, 32 * HALF, unroll=1):
            cute.autovec_copy(memory(Int32, source + Int64(more), HALF // 4, HALF), behind)
            self.decode(behind, scale, to, more)

    @cute.jit
    def decode(self, codes: cute.Tensor, scale, to, column):
        """The lane's columns of their codes."""
        words = cute.size(codes)
        halves = cute.make_rmem_tensor((2 * words,), Int32)
        for i in cutlass.range_constexpr(words):
            halves[2 * i], halves[2 * i + 1] = four_halves(codes[i])
        columns = cute.make_rmem_tensor((4 * words,), Float32)
        columns.store(cute.recast_tensor(halves, Float16).load().to(Float32) * scale)
        self.store(columns, to, column)

    @cute.jit
    def scale_of(self, scales, lane):
        tile = Int64(lane >> self.a.tile_shift)
        bits = Int32(0)
        if self.a.byte_scales != 0:
            code = Int32(number_at(Uint8, scales + tile)) & 0xFF  # the compiler loads it with a sign
            bits = code << 23 if code != 0 else Int32(SMALLEST_SCALE)
            bits = bits if code != 255 else Int32(NAN)
        else:
            bits = number_at(Int32, scales + 4 * tile)
        return float_of(bits)

    @cute.jit
    def store(self, columns: cute.Tensor, to, column):
        """Columns in the dtype of the rows."""
        for code, dtype in enumerate(DTYPES.values()):
            if self.a.dtype == code:
                rounded = cute.make_rmem_tensor((cute.size(columns),), dtype)
                rounded.store(columns.load().to(dtype))
                where = to + dtype.width // 8 * Int64(column)
                cute.autovec_copy(rounded, memory(dtype, where, cute.size(columns)))

    @cute.jit
    def store_rope(self, given: cute.Tensor, to, column):
        """Columns of bfloat16, which stay as they are, bit by bit, in rows of it."""
        if self.a.dtype == BF16:
            cute.autovec_copy(given, memory(Int32, to + 2 * Int64(column), cute.size(given)))
        else:
            columns = cute.make_rmem_tensor((2 * cute.size(given),), Float32)
            columns.store(cute.recast_tensor(given, BFloat16).load().to(Float32))
            self.store(columns, to, column)


BF16 = list(DTYPES).index("bfloat16")


def memory(dtype, where, count, align=16):
    """Neighbours in memory, at an address."""
    return cute.make_tensor(cute.make_ptr(dtype, where, cute.AddressSpace.gmem, assumed_align=align), count)


def number_at(dtype, where):
    return memory(dtype, where, 1, dtype.width // 8)[0]


@cute.jit
def float_of(bits):
    return cute.arch.inline_ptx("mov.b32 {$w0}, {$r0};", write_only_types=[Float32], read_only_args=[Int32(bits)])


@cute.jit
def four_halves(codes):
    """Four codes of float8_e4m3fn as float16, two in a word: exact."""
    return cute.arch.inline_ptx(
        "{ .reg .b16 low, high; mov.b32 {low, high}, {$r0};"
        " cvt.rn.f16x2.e4m3x2 {$w0}, low; cvt.rn.f16x2.e4m3x2 {$w1}, high; }",
        write_only_types=[Int32, Int32],
        read_only_args=[Int32(codes)],
    )
