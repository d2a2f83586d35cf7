"""Token-sparse MLA decode for Hopper: dense_decode's roles on rows of the cache that each query token selects.

A tile is a block of up to 64 heads of one query token, or both blocks of it: of codes, and where query tokens are not
few, those are a pair of CTAs, which fetch and make half of the rows each, for both. Its KV items are the rows that the
token selects, in units of 64: first those of the main cache, then those of the extra one. TMA cannot gather rows on
this chip: a warpgroup of its own, the producer, or the warps of PV fetch them with cp.async (producer.py, gather.py of
dense_decode) into the slot that the product before has left, while QK works on the next unit; and the warps of PV make
what is quantised into bfloat16 in its place (made_codes.py there), beside the product that runs on the tensor cores
then, or behind it. A row that is not attended, because its index lies outside the cache or behind the length, is zeros,
and its logits are hidden (qk.py).

What differs of the barriers: an item has come (`full`) when every thread of who fetches or makes it has arrived, and
each loads what it needs only when the record of the piece is there, so that nothing is loaded without work.
"""

import cuda.bindings.driver as cuda
import cutlass.cute as cute
from cutlass import const_expr
from cutlass.cute.nvgpu import warpgroup

from dsl_kernels.core.params import Named
from dsl_kernels.core.schedule import by_request, given
from dsl_kernels.dense_decode.config import WARPGROUPS
from dsl_kernels.dense_decode.gather import Gather
from dsl_kernels.dense_decode.kernel import DenseDecode
from dsl_kernels.dense_decode.producer import Producer
from dsl_kernels.dense_decode.shared_memory import SharedMemory

from .params import PARAMS
from .pv import SparseFedPV, SparsePV
from .qk import SparseQK
from .selection import Selection, SelectionReader


class SparseDecode(DenseDecode):
    @cute.jit
    def __call__(self, q: cute.Pointer, q_rope: cute.Pointer, args: tuple, stream: cuda.CUstream):
        atom = warpgroup.make_smem_layout_atom(warpgroup.SmemLayoutAtomKind.K_SW128, self.dtype)
        slice_layout = cute.tile_to_shape(atom, (64, 64), order=(0, 1))
        tma_q, mQ = self.map_queries(q, slice_layout)
        tma_q_rope, mQrope = self.map_queries(q_rope, slice_layout)
        self.smem = SharedMemory(self)
        self.shared_bytes = self.smem.storage.size_in_bytes()
        self.kernel(tma_q, mQ, tma_q_rope, mQrope, args).launch(
            grid=(1, 1, 1), block=(self.threads, 1, 1), cluster=(self.cluster, 1, 1), stream=stream, min_blocks_per_mp=1
        )

    @cute.kernel
    def kernel(
        self, tma_q: cute.CopyAtom, mQ: cute.Tensor, tma_q_rope: cute.CopyAtom, mQrope: cute.Tensor, args: tuple
    ):
        self.a = Named(PARAMS, args, causal=0, window=0)
        if const_expr(self.cluster == 1):
            self.blocks = self.a.cluster
        self.begin()
        self.reader = SelectionReader(self)
        loader = Producer if self.regs_producer else Gather
        loader = loader(self, (tma_q, tma_q_rope), (mQ, mQrope), self.reader, Selection(self))
        self.qk = SparseQK(self)
        if const_expr(self.regs_producer > 0):
            self.producer, self.pv = loader, SparseFedPV(self)
        else:
            self.pv = SparsePV(self, loader)
        self.run_roles(*((tma_q, tma_q_rope) if self.rope else (tma_q,)))

    @cute.jit
    def begin_work(self, warp):
        """The first record follows from shapes alone where the cuts do and no lengths are given: then it is written
        while what came before in the stream still runs.
        """
        a = self.a
        if (a.tile_cost == 0) or given(a.lengths) or given(a.extra_lengths) or by_request(a):
            cute.arch.griddepcontrol_wait()
        reads = warp == 4 * WARPGROUPS - 1 + (self.regs_producer > 0)
        if const_expr(self.cluster > 1):
            reads = reads and self.rank == 0
        if reads:
            self.reader.publish_first()

    def begin_role(self):
        """Nothing before has read what this call's kernels write, nor what those before it in the stream do."""
        cute.arch.griddepcontrol_wait()
        cute.arch.griddepcontrol_launch_dependents()
