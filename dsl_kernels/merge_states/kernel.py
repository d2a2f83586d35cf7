"""Joins the results of attention over disjoint parts of the KV cache: a warp a row, bound by memory.

    lse = log(sum_i exp(lse_i));   out = sum_i exp(lse_i - lse) * out_i

The lanes of a warp are parts first: each finds its part's log-sum-exp and where the part's row lies. Then they are
columns, 8 a lane: for one part after another its row is read with 16-byte loads and added with the part's weight. A
part whose log-sum-exp is infinite is empty, and its row is not read. Stacked parts can be more than 32: then the lanes
go on to the next 32, with a first round over all of them for the sum of the weights.

Rows and parts are numbered up to 2^31 - 1, and a loop looks one step beyond them: their numbers have no sign.
"""

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64, Uint32, min

from dsl_kernels.core.dtypes import DTYPES
from dsl_kernels.core.params import Named
from dsl_kernels.core.threads import warp_reduce

from .config import Variant
from .params import MAX_STATES, PARAMS

COLUMNS = 8  # of a lane at once
PARTS_AT_ONCE = 4  # loads in flight


class MergeStates:
    def __init__(self, variant: Variant):
        self.dtype = DTYPES[variant.elements.out]
        self.threads = variant.threads
        self.cluster = 1
        self.shared_bytes = 0

    @cute.jit
    def __call__(self, args: tuple, stream: cuda.CUstream):
        self.kernel(args).launch(grid=(1, 1, 1), block=(self.threads, 1, 1), stream=stream, min_blocks_per_mp=1)

    @cute.kernel
    def kernel(self, args: tuple):
        self.a = a = Named(PARAMS, args)
        tid, _, _ = cute.arch.thread_idx()
        bid, _, _ = cute.arch.block_idx()
        grid, _, _ = cute.arch.grid_dim()
        lane = tid % 32
        cute.arch.griddepcontrol_launch_dependents()
        cute.arch.griddepcontrol_wait()
        part = self.part_of_lane(lane)
        row = Uint32(bid + tid // 32 * grid)
        while row < Uint32(a.rows):
            self.merge_row(Int32(row), lane, part)
            row += Uint32(self.threads // 32 * grid)

    @cute.jit
    def part_of_lane(self, lane):
        """Address and strides of the part of this lane: (out, batch, token, head; lse, batch, head, token) in elements,
        as eight 64-bit numbers. Stacked, part 0's.
        """
        a = self.a
        found = cute.make_rmem_tensor((8,), Int64)
        names = [f"{what}_{{}}{end}" for what in ("out", "lse") for end in ("", "_stride_b", "_stride_s", "_stride_h")]
        for n, name in enumerate(names):
            found[n] = self.number(name.format(0))
        for i in cutlass.range_constexpr(1, MAX_STATES):
            if i < a.num_states and a.stacked == 0:
                if lane == i:
                    for n, name in enumerate(names):
                        found[n] = self.number(name.format(i))
        return found

    def number(self, name):
        value = getattr(self.a, name)
        return value if "stride" in name else value.toint()

    @cute.jit
    def merge_row(self, row, lane, part: cute.Tensor):
        a = self.a
        token = row // a.h_q
        h = row - token * a.h_q
        b = token // a.s_q
        s = token - b * a.s_q
        out = part[0] + self.dtype.width // 8 * (b * part[1] + s * part[2] + h * part[3])
        lse = part[4] + 4 * (b * part[5] + s * part[6] + h * part[7])
        top, total = self.sum_weights(lse, lane)
        where = Int64(b) * a.result_stride_b + Int64(s) * a.result_stride_s + Int64(h) * a.result_stride_h
        for chunk in cutlass.range(lane, (a.chunks + 31) // 32 * 32, 32, unroll=1):  # every lane gives its parts
            acc = cute.make_rmem_tensor((COLUMNS,), Float32)
            acc.fill(0.0)
            first = Uint32(0)
            while first < Uint32(a.num_states):
                there, weight = self.weight(lse, first + Uint32(lane), top, total)
                parts = cute.arch.vote_ballot_sync(there)
                address = out + self.dtype.width // 8 * self.beyond(first + Uint32(lane), a.out_state_stride)
                for j in cutlass.range(min(a.num_states - Int32(first), 32), unroll=PARTS_AT_ONCE):
                    here = shuffle_64(address, j)
                    factor = cute.arch.shuffle_sync(weight, j)
                    if ((parts >> j) & 1) != 0 and chunk < a.chunks:
                        self.add(acc, here + self.dtype.width // 8 * COLUMNS * Int64(chunk), factor)
                first += Uint32(32)
            if chunk < a.chunks:
                self.store(acc, where + COLUMNS * chunk)
        wanted = a.result_lse.toint() != 0
        if wanted and lane == 0:
            there = (
                Int64(b) * a.result_lse_stride_b + Int64(s) * a.result_lse_stride_s + Int64(h) * a.result_lse_stride_h
            )
            dst = cute.make_tensor(a.result_lse + there, cute.make_layout(1))
            dst[0] = top + cute.math.log2(total) * a.lse_factor if total != 0.0 else a.empty_lse

    @cute.jit
    def beyond(self, i, stride):
        """How far the row of part i is from that of the lane's own part, elements."""
        return Int64(i) * stride if self.a.stacked != 0 else Int64(0)

    @cute.jit
    def weight(self, lse, i, top, total):
        """(Is part i there and not empty, its share of the result)."""
        there, value = self.part_lse(lse, i)
        return there, cute.math.exp2((value - top) * self.a.to_log2, fastmath=True) / total

    @cute.jit
    def part_lse(self, lse, i):
        """(Is part i there and not empty, its log-sum-exp)."""
        a = self.a
        value = Float32.inf
        there = i < Uint32(a.num_states)
        if there:
            where = lse + 4 * self.beyond(i, a.lse_state_stride)
            ptr = cute.make_ptr(Float32, where, cute.AddressSpace.gmem, assumed_align=4)
            value = cute.make_tensor(ptr, cute.make_layout(1))[0]
        return (value != Float32.inf) and (value != -Float32.inf), value

    @cute.jit
    def sum_weights(self, lse, lane):
        """(The greatest log-sum-exp of the parts, the sum of their weights relative to it): (0, 0) without parts; NaN
        comes through. Differences are taken before they are scaled: a large number times log2(e) may be none.
        """
        a = self.a
        top, total = -Float32.inf, Float32(0.0)
        first = Uint32(0)
        while first < Uint32(a.num_states):
            there, value = self.part_lse(lse, first + Uint32(lane))
            value = value if there else -Float32.inf
            new = cute.arch.fmax(top, warp_reduce(value, cute.arch.fmax))
            shift = 0.0 if new == -Float32.inf else new
            here = warp_reduce(cute.math.exp2((value - shift) * a.to_log2, fastmath=True), lambda x, y: x + y)
            total = total * cute.math.exp2((top - shift) * a.to_log2, fastmath=True) + here
            top = new
            first += Uint32(32)
        return 0.0 if top == -Float32.inf else top, total

    @cute.jit
    def add(self, acc: cute.Tensor, address, weight):
        """Adds eight columns of a part."""
        ptr = cute.make_ptr(self.dtype, address, cute.AddressSpace.gmem, assumed_align=16)
        values = cute.make_rmem_tensor((COLUMNS,), self.dtype)
        cute.autovec_copy(cute.make_tensor(ptr, cute.make_layout(COLUMNS)), values)
        acc.store(acc.load() + values.load().to(Float32) * weight)

    @cute.jit
    def store(self, acc: cute.Tensor, where):
        """Eight columns of the result, in its dtype."""
        a = self.a
        for code, dtype in enumerate(DTYPES.values()):
            if a.result_dtype == code:
                rounded = cute.make_rmem_tensor((COLUMNS,), dtype)
                rounded.store(acc.load().to(dtype))
                ptr = cute.recast_ptr(a.result, dtype=dtype) + cute.assume(where, divby=8)
                cute.autovec_copy(rounded, cute.make_tensor(ptr, cute.make_layout(COLUMNS)))


def shuffle_64(value, lane):
    """A 64-bit number of another lane."""
    low = cute.arch.shuffle_sync(Int32(value), lane)
    high = cute.arch.shuffle_sync(Int32(value >> 32), lane)
    return (Int64(high) << 32) | (Int64(low) & 0xFFFFFFFF)
