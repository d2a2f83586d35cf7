"""Rows of tokens into the pages of a KV cache, as they are or quantised: a warp a token, bound by memory.

A lane has 16 columns: it reads them with 16-byte loads, finds with its neighbours the largest magnitude of the tile,
and writes 16 codes at once. Of columns 512 to 575 lanes 0 to 7 have 8 each, but where one scale is given for all: there
rows have any number of columns. Where rows lie is looked up of up to 32 tokens of the warp at once, a lane each, since
that takes as long as reading a row. What is read of the first one does not depend on it, so it is asked for before.
A warp has every n-th token, so that all of them read one neighbourhood at a time.
"""

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float16, Float32, Int32, Int64, Uint8, Uint32

from dsl_kernels.core.memory import fresh_number_at, load_fresh, memory, put
from dsl_kernels.core.params import Named
from dsl_kernels.core.schedule import address

from .codes import COLUMNS, given_codes, given_scale, largest_of, tile_codes
from .config import Variant
from .params import BLOCKS, MARK, MARKED, PARAMS
from .slots import mark_tokens, place_of, slot_of, writes

HALF = 8  # 16 bytes of a 2-byte type
WARP_COLUMNS = 32 * COLUMNS
VECTOR = 16  # bytes
VECTORS = 3  # of a lane at once, of a row
AT_ONCE = 32  # tokens of a warp whose slots are looked up
COPIED, ENCODED, QUANTIZED = range(3)


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
        self.lane = tid % 32
        if a.manner == MARK:
            # The launch behind this one, which starts from here on, reads tokens and slots before its own wait. What
            # is before this one in the stream is done; its results are in L2, where they are read.
            cute.arch.griddepcontrol_wait()
            cute.arch.griddepcontrol_launch_dependents()
            mark_tokens(a, Uint32(bid * self.threads + tid), Uint32(self.threads * grid))
        else:
            cute.arch.griddepcontrol_launch_dependents()
            if a.manner != MARKED:
                cute.arch.griddepcontrol_wait()
            # Without sign: the next token may be beyond 2^31.
            token, step = Uint32(bid + tid // 32 * grid), Uint32(self.threads // 32 * grid)
            if a.copied != 0:
                self.write_tokens(token, step, COPIED)
            elif a.encoded != 0:
                self.write_tokens(token, step, ENCODED)
            else:
                self.write_tokens(token, step, QUANTIZED)

    @cute.jit
    def write_tokens(self, first, step, kind: cutlass.Constexpr):
        """The tokens `first`, `first + step` and so on."""
        a, lane = self.a, self.lane
        scale = given_scale(a) if kind == ENCODED else None
        while first < Uint32(a.num_tokens):
            token = first + Uint32(lane) * step
            there = lane < AT_ONCE and token < Uint32(a.num_tokens)
            slot = Int64(-1)
            if there:
                slot = slot_of(a, Int32(token), fresh_number_at)
            given = cute.make_rmem_tensor((4, VECTORS), Int32)
            self.load_row(given, Int32(first), kind, fresh=True)
            block, place = place_of(a, slot)
            row = address(a.pages) + block * a.block_step + place * a.row_step
            if a.manner == MARKED:
                cute.arch.griddepcontrol_wait()
            mine = writes(a, Int32(token), slot, there, row, lane)
            written = cute.arch.vote_ballot_sync(mine)
            i = Int32(0)
            while i < AT_ONCE and first < Uint32(a.num_tokens):
                if written >> i & 1 != 0:
                    to, place_to = cute.arch.shuffle_sync(row, i), cute.arch.shuffle_sync(Int32(place), i)
                    if cutlass.const_expr(kind == COPIED):
                        self.copy_row(given, Int32(first), to)
                    elif cutlass.const_expr(kind == ENCODED):
                        self.encode_row(given, Int32(first), to, scale)
                    else:
                        self.quantize_row(given, to, place_to)
                i += 1
                first += step
                if i < AT_ONCE and written >> i & 1 != 0:
                    self.load_row(given, Int32(first), kind)

    @cute.jit
    def load_row(self, given: cute.Tensor, token, kind: cutlass.Constexpr, fresh: cutlass.Constexpr = False):
        """What a lane has of the first columns of a token. Of those that become codes they are 16 neighbours, and eight
        behind the first 512.
        """
        for j in cutlass.range_constexpr(VECTORS):
            at = VECTOR * (self.lane + 32 * j)
            if cutlass.const_expr(kind != COPIED and j < 2):
                at = VECTOR * (2 * self.lane + j)
            self.load(given[None, j], token, at, fresh)

    @cute.jit
    def load(self, given: cute.Tensor, token, at, fresh: cutlass.Constexpr = False):
        """Columns at byte `at` of a token. The border of latent and rope is at a multiple of 32 bytes."""
        a = self.a
        source = address(a.latent) + Int64(token) * a.latent_step
        if at >= a.latent_bytes:
            source = address(a.rope) + Int64(token) * a.rope_step - Int64(a.latent_bytes)
        if at < a.given_bytes:
            if cutlass.const_expr(fresh):
                load_fresh(source + Int64(at), given)
            else:
                cute.autovec_copy(memory(Int32, source + Int64(at), 4), given)

    @cute.jit
    def copy_row(self, given: cute.Tensor, token, row):
        a, lane = self.a, self.lane
        for j in cutlass.range_constexpr(VECTORS):
            at = VECTOR * (lane + 32 * j)
            if at < a.given_bytes:
                cute.autovec_copy(given[None, j], memory(Int32, row + Int64(at), 4))
        for at in cutlass.range(VECTOR * (lane + 32 * VECTORS), a.given_bytes, VECTOR * 32, unroll=1):
            more = cute.make_rmem_tensor((4,), Int32)
            self.load(more, token, at)
            cute.autovec_copy(more, memory(Int32, row + Int64(at), 4))

    @cute.jit
    def encode_row(self, given: cute.Tensor, token, row, scale):
        """A row of codes with one scale for all."""
        a, lane = self.a, self.lane
        column, column_behind = COLUMNS * lane, WARP_COLUMNS + HALF * lane
        if column < a.columns:
            self.store_codes(first_of(given), row, column, scale)
        if column_behind < a.columns:
            self.store_codes(given[None, 2], row, column_behind, scale)
        for more in cutlass.range(column_behind + 32 * HALF, a.columns, 32 * HALF, unroll=1):
            behind = cute.make_rmem_tensor((4,), Int32)
            self.load(behind, token, 2 * more)
            self.store_codes(behind, row, more, scale)

    @cute.jit
    def store_codes(self, given: cute.Tensor, row, column, scale):
        codes = cute.make_rmem_tensor((cute.size(given) // 2,), Int32)
        given_codes(self.a, given, scale, codes)
        cute.autovec_copy(codes, memory(Int32, row + Int64(column), cute.size(codes), 4 * cute.size(codes)))

    @cute.jit
    def quantize_row(self, given: cute.Tensor, row, place):
        """A row of a format with scales, of 512 columns or 64 more."""
        a, lane = self.a, self.lane
        column, column_behind = COLUMNS * lane, WARP_COLUMNS + HALF * lane
        first = first_of(given)
        largest = largest_of(a, first)
        if column < a.quantized:
            codes = cute.make_rmem_tensor((4,), Int32)
            scale = tile_codes(a, first, largest, codes)
            cute.autovec_copy(codes, memory(Int32, row + Int64(column), 4))
            if lane & ((1 << a.tile_shift) - 1) == 0:
                scales = row + a.scales_at + Int64(place) * (Int64(a.scales_step) - a.row_step)
                self.store_scale(scales, Int64(lane >> a.tile_shift), scale)
        else:
            self.store_rope(first, row, column)
        if column_behind < a.columns:
            self.store_rope(given[None, 2], row, column_behind)

    @cute.jit
    def store_scale(self, scales, tile, scale):
        if self.a.byte_scales != 0:
            put(Uint8, scales + tile, Uint8(scale >> 23 & 0xFF))
        else:
            put(Int32, scales + 4 * tile, scale)

    @cute.jit
    def store_rope(self, given: cute.Tensor, row, column):
        """Columns in bfloat16: those that are it, bit by bit."""
        a = self.a
        words = cute.make_rmem_tensor((cute.size(given),), Int32)
        words.store(given.load())
        if a.float16 != 0:
            rounded = cute.recast_tensor(words, BFloat16)
            rounded.store(cute.recast_tensor(given, Float16).load().to(Float32).to(BFloat16))
        where = row + Int64(a.rope_at) + 2 * Int64(column - a.quantized)
        cute.autovec_copy(words, memory(Int32, where, cute.size(words)))


def first_of(given: cute.Tensor):
    """The first 16 columns of a lane."""
    return cute.make_tensor(given.iterator, 8)
