"""TMA loads of Q: what every loader does, wherever it has the KV rows from."""

import cutlass
import cutlass.cute as cute
from cutlass import const_expr
from cutlass.cute.nvgpu import cpasync

from dsl_kernels.core import schedule

SLICE_BYTES = 64 * 64 * 2


class Queries:
    """tma_q: the copies of the latent and of the RoPE part, which may be tensors apart; mQ: what they copy from."""

    def __init__(self, kernel, tma_q, mQ):
        self.kernel, self.a, self.bars, self.smem = kernel, kernel.a, kernel.bars, kernel.smem
        # of codes two columns are an element
        self.half_slices, self.rope = kernel.half_slices // (2 if kernel.fp8_products else 1), kernel.rope
        self.latent = 2 * self.half_slices  # slices of the latent part; the RoPE slice comes behind them
        self.tma_q = tma_q
        parts = [self.partition(*part) for part in zip(tma_q, mQ, strict=True)]
        (self.tQs, self.tQg), (self.tRs, self.tRg) = parts

    def partition(self, tma_q, mQ):
        slices = cute.group_modes(self.smem.sS, 0, 2)
        gQ = cute.group_modes(cute.local_tile(mQ, (64, 64), (None, None, None, None, None)), 0, 2)
        return cpasync.tma_partition(tma_q, 0, cute.make_layout(1), slices, gQ)

    @cute.jit
    def load_q(self, half, bar, first, tile_of_head, head, request, query, last=None):
        """This half of the CTA's row block of a tile. `query`: the request's first query token. The map's box is
        block_tokens x block_heads rows, zeros beyond the tensor; rows behind the request's last are never stored.
        """
        a, src, dst = self.a, self.tQg, self.tQs
        latent, rope = self.tma_q
        block = tile_of_head * self.kernel.blocks + self.kernel.rank
        group_of_tokens = schedule.divide(block, a.by_head_chunks)
        chunk, token = block - group_of_tokens * a.head_chunks, query + group_of_tokens * a.block_tokens
        layer = 0 if schedule.by_request(a) else request  # all requests are one in variable-length queries
        self.announce(bar, half)
        for j in cutlass.range_constexpr(self.half_slices):
            column = self.half_slices * half + j
            cute.copy(latent, src[None, chunk, column, token, head, layer], dst[None, first + j], tma_bar_ptr=bar)
        if const_expr(self.rope):
            if half == 1:
                src, to = self.tRg, self.tRs[None, self.rope_slice(first, last)]
                cute.copy(rope, src[None, chunk, 0, token, head, layer], to, tma_bar_ptr=bar)

    @cute.jit
    def announce(self, bar, half):
        """This half's bytes of Q will come."""
        rows = self.a.block_heads * self.a.block_tokens
        with cute.arch.elect_one():
            cute.arch.mbarrier_arrive_and_expect_tx(bar, rows * (SLICE_BYTES // 64 * self.slices_of(half)))

    def rope_slice(self, first, last):
        """Where the RoPE part lies behind the slices of the right half, or where that is said."""
        return first + self.half_slices if last is None else last

    def slices_of(self, half):
        """Slices that a half loads."""
        return self.half_slices + half if self.rope else self.half_slices
