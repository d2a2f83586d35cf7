"""Pieces of a buffer on the host into arrays on the device: a warp a piece.

The copy engine does copies in the order in which it was given them, whatever streams they are on: a few bytes that it
has to bring wait for all of a swap. Here multiprocessors read them. The record of a piece says where it goes, how many
bytes it has, a multiple of 4, and where it lies in the buffer, in units of 16 bytes. That and the piece are read before
the wait for what comes before in the stream, since it takes microseconds: the host has written them before the launch.
"""

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64, Uint32

from dsl_kernels.core.memory import load_fresh, put
from dsl_kernels.core.params import Named
from dsl_kernels.core.schedule import address

from .config import Variant
from .params import LANE_BYTES, PARAMS


class Upload:
    def __init__(self, variant: Variant):
        self.threads = variant.threads
        self.cluster = 1
        self.shared_bytes = 0

    @cute.jit
    def __call__(self, args: tuple, stream: cuda.CUstream):
        self.kernel(args).launch(grid=(1, 1, 1), block=(self.threads, 1, 1), stream=stream)

    @cute.kernel
    def kernel(self, args: tuple):
        a = Named(PARAMS, args)
        tid, _, _ = cute.arch.thread_idx()
        bid, _, _ = cute.arch.block_idx()
        cute.arch.griddepcontrol_launch_dependents()
        piece = bid * (self.threads // 32) + tid // 32
        mine = LANE_BYTES * (tid % 32)
        record, words = cute.make_rmem_tensor((4,), Int32), cute.make_rmem_tensor((4,), Int32)
        record.fill(0)
        if piece < a.num_pieces:
            load_fresh(address(a.end) - 16 * Int64(piece + 1), record, "sys")
        left = record[2] - mine
        if left > 0:
            load_fresh(address(a.staged) + LANE_BYTES * Int64(record[3]) + mine, words, "sys")
        cute.arch.griddepcontrol_wait()
        to = (Int64(record[1]) << 32 | Int64(Uint32(record[0]))) + mine
        for i in cutlass.range_constexpr(4):
            if left > 4 * i:
                put(Int32, to + 4 * i, words[i])
