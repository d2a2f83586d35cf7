"""Tokens from the pages of a KV cache to rows, as they are or dequantised: a warp a token, bound by memory.

Where the tokens of several rows of the warp lie is looked up at once, a lane a row, since that takes longer than
reading a row. A lane has 16 columns: it reads 16 codes at once, with the scale of their tile, and writes the products,
rounded to float32 and then to the element type of the rows. Of the 64 columns of RoPE lanes 0 to 7 have 8 each; where
there is one scale for all, rows have any number of columns, of which each lane has 8 behind the first 512.
"""

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float32, Int32, Int64, Uint32, min

from dsl_kernels.core.dtypes import DTYPES
from dsl_kernels.core.memory import memory, number_at
from dsl_kernels.core.params import Named
from dsl_kernels.core.schedule import address

from .codes import COLUMNS, decode, scale_bits, scale_of
from .config import Variant
from .params import BLOCKS, PARAMS
from .places import place_of

HALF = 8  # 16 bytes of a 2-byte type
WARP_COLUMNS = 32 * COLUMNS
VECTORS = 4  # of a lane at once, of a row that is copied
AT_ONCE = 8  # rows of a warp whose tokens are looked up
BF16 = list(DTYPES).index("bfloat16")


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
        cute.arch.griddepcontrol_launch_dependents()
        cute.arch.griddepcontrol_wait()
        scale = Float32(1.0)
        if address(a.descale) != 0:
            scale = number_at(Float32, address(a.descale))
        self.lane, self.scale = tid % 32, scale
        # Without sign: the next row may be beyond 2^31.
        self.read_rows(Uint32(bid + tid // 32 * grid), Uint32(self.threads // 32 * grid))

    @cute.jit
    def read_rows(self, first, step):
        """The rows `first`, `first + step` and so on."""
        a, lane = self.a, self.lane
        while first < Uint32(a.num_tokens):
            row = first + Uint32(lane) * step
            there = lane < AT_ONCE and row < Uint32(a.num_tokens)
            last = first + (min(Uint32(AT_ONCE - 1), (Uint32(a.num_tokens) - 1 - first) // step)) * step
            wanted, found, block, place = place_of(a, Int32(row), there, Int32(last), lane)
            source = address(a.pages) + Int64(block) * a.block_step + Int64(place) * a.row_step
            rows, tokens = cute.arch.vote_ballot_sync(wanted), cute.arch.vote_ballot_sync(found)
            i = Int32(0)
            while i < AT_ONCE and first < Uint32(a.num_tokens):
                if rows >> i & 1 != 0:
                    where, place_there = cute.arch.shuffle_sync(source, i), cute.arch.shuffle_sync(place, i)
                    to = address(a.out) + Int64(first) * a.out_step
                    self.read_row(where, place_there, tokens >> i & 1 != 0, to)
                i += 1
                first += step

    @cute.jit
    def read_row(self, source, place, there, to):
        a, lane = self.a, self.lane
        if a.copied != 0 or not there:
            for first in cutlass.range(16 * lane, a.row_bytes, 16 * 32 * VECTORS, unroll=1):
                self.copy_vectors(source, to, first, there)
        elif a.encoded != 0:
            self.decode_row(source, to)
        else:
            self.dequantize_row(source, source + a.scales_at + Int64(place) * (Int64(a.scales_step) - a.row_step), to)

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
    def dequantize_row(self, source, scales, to):
        """Columns of RoPE are asked for before the others are used."""
        a, lane = self.a, self.lane
        column, column_behind = COLUMNS * lane, a.quantized + HALF * lane
        codes, bits = cute.make_rmem_tensor((4,), Int32), Int32(0)
        behind = cute.make_rmem_tensor((HALF // 2,), Int32)
        if column < a.quantized:
            cute.autovec_copy(memory(Int32, source + Int64(column), 4), codes)
            bits = scale_bits(a, scales, lane)
        if column_behind < a.columns:
            cute.autovec_copy(memory(Int32, source + Int64(a.rope_at) + 16 * Int64(lane), HALF // 2), behind)
        if column < a.quantized:
            self.store_decoded(codes, scale_of(a, bits), to, column)
        if column_behind < a.columns:
            self.store_rope(behind, to, column_behind)

    @cute.jit
    def decode_row(self, source, to):
        """A row of codes with one scale."""
        a, lane, scale = self.a, self.lane, self.scale
        column, column_behind = COLUMNS * lane, WARP_COLUMNS + HALF * lane
        codes = cute.make_rmem_tensor((COLUMNS // 4,), Int32)
        behind = cute.make_rmem_tensor((HALF // 4,), Int32)
        if column < a.columns:
            cute.autovec_copy(memory(Int32, source + Int64(column), COLUMNS // 4), codes)
        if column_behind < a.columns:
            cute.autovec_copy(memory(Int32, source + Int64(column_behind), HALF // 4, HALF), behind)
        if column < a.columns:
            self.store_decoded(codes, scale, to, column)
        if column_behind < a.columns:
            self.store_decoded(behind, scale, to, column_behind)
        for more in cutlass.range(column_behind + 32 * HALF, a.columns, 32 * HALF, unroll=1):
            cute.autovec_copy(memory(Int32, source + Int64(more), HALF // 4, HALF), behind)
            self.store_decoded(behind, scale, to, more)

    @cute.jit
    def store_decoded(self, codes: cute.Tensor, scale, to, column):
        columns = cute.make_rmem_tensor((4 * cute.size(codes),), Float32)
        decode(codes, scale, columns)
        self.store(columns, to, column)

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
