"""Paged dense MLA decode for Hopper: split-KV over a work list, Q in registers, a ring of KV slots, TMA multicast.

Work. A part of the schedule (core/schedule.py) is done by one cluster of 1 or 2 CTAs; cluster c takes the parts c,
c + clusters, ... . A CTA owns one block of up to 64 query rows of the tile, so the CTAs of a cluster need the same KV
and share it by multicast. Which pieces of which tiles there are, one warp reads and tells all roles (work.py).

384 threads, three warpgroups and no producer warp (with more threads ptxas caps a kernel at 128 registers, too few for
an m64n256 accumulator):
  QK   qk.py: S = Q K^T for one unit of 64 tokens (m64n64), most of Q in registers, the rest in shared memory; online
       softmax; P -> shared memory.
  PV   pv.py: two warpgroups, each O += P V for half of V's columns (m64n256 for d_v 512). The first warp of
       each also starts the TMA loads of its half of the next units (loader.py), as soon as that half of a slot is free
       in the whole cluster.

Shared memory (shared_memory.py): slots of d_v / 64 + 1 slices of 64 rows x 64 columns (128-byte swizzle), 72 KB for d_v
512. The last slice is K's RoPE part, the others its latent part and V; once S of the unit is done, P (64 x 64)
overwrites the RoPE part. Without one (d_qk == d_v) that slice is P's alone. Q travels through the ring as an item in
front of the units; when all are done, the rows of the output are turned round in the slot of the last one.

Rows that TMA does not bring are fetched by the warps of PV (gather.py) or, in kernels of sparse_decode, by a fourth
warpgroup, for which QK gives registers (producer.py, fed_pv.py). Then PV's accumulators are two of m64n128, and more of
Q is in shared memory, which has room for that if RoPE parts and P take turns in two slices beside the slots.

Order on the tensor cores: PV of a unit starts when S of the next one is nearly done, so PV runs under softmax and S has
the tensor cores to itself; when the next unit is late, PV starts at once. The barriers that make this order, and all
others, are described in barriers.py.

Calls that permit products of 8-bit codes have kernels of their own: code_qk.py, code_pv.py, turned.py. There the slots
are of raw codes, and of V there are two copies beside them.

Batch-invariant calls have kernels of their own, which do a tile piece by piece: invariant.py says which pieces there
are, invariant_{loader,qk,pv}.py what the roles do otherwise, carries.py what becomes of the rows.
"""

import cuda.bindings.driver as cuda
import cutlass.cute as cute
from cutlass import Float16, const_expr
from cutlass.cute.nvgpu import cpasync, warpgroup

from dsl_kernels.core.dtypes import DTYPES
from dsl_kernels.core.formats import CODES
from dsl_kernels.core.params import Named
from dsl_kernels.core.schedule_params import CUTS_ARE_READ, UNIT
from dsl_kernels.core.threads import lane_now, opaque

from .barriers import Barriers
from .boxes import Boxes
from .code_pv import CodePV
from .code_qk import CodeQK
from .codes import CodedRows
from .config import WARPGROUPS, Variant
from .gather import Gather
from .gather_pv import GatherPV
from .gather_qk import GatherQK
from .gather_reader import GatherReader
from .invariant_loader import InvariantLoader
from .invariant_pv import InvariantPV
from .invariant_qk import InvariantQK
from .loader import Loader
from .made_codes import MadeCodes
from .narrow import NarrowRows
from .pages import Pages
from .params import PARAMS
from .pv import PV
from .qk import QK
from .rows import PlainRows
from .shared_memory import SharedMemory
from .turned import TurnedRows
from .unscaled import UnscaledRows
from .unscaled_qk import UnscaledQK


class DenseDecode:
    def __init__(self, variant: Variant):
        codes = CODES.get(variant.kv_format)
        self.one_scale = codes is not None and codes.one_scale
        self.dtype = Float16 if self.one_scale else DTYPES[variant.elements.cache]  # that products are made in
        self.out_dtype = DTYPES[variant.elements.out]
        # threads and registers
        self.threads = variant.threads
        self.regs_at_entry = variant.target.registers_at_entry(variant.threads)
        self.regs_qk, self.regs_pv = variant.qk_registers, variant.pv_registers
        self.regs_producer, self.producer = variant.producer_registers, None  # the role, where there is one
        # geometry
        self.d_qk, self.d_v = variant.d_qk, variant.d_v
        self.half = variant.d_v // 2  # columns of one PV warpgroup
        self.half_slices = self.half // 64
        self.slices = variant.slot_slices
        self.last = variant.d_v // 64 if not variant.fp8_products else self.slices - 1  # the slice of RoPE and P
        self.turns = variant.turns
        self.rope, self.any_rope = variant.rope_slices > 0, variant.any_rope
        self.rope_steps = (variant.d_qk - variant.d_v) // 16  # k-steps of the RoPE part
        self.fp8_products = variant.fp8_products
        self.constants = {"window": 0} if variant.batch_invariant else {}  # parameters that such kernels do not know
        self.any_page, self.invariant = variant.any_page, variant.batch_invariant
        # number of the lane: in a register from the start, or where there is none read again when x is known; and such
        # that nothing that follows from it is worked out in advance
        self.lane = lane_now if self.invariant else lambda _: cute.arch.lane_idx()
        self.lane_apart = lane_now if self.invariant else lambda _: opaque(cute.arch.lane_idx())
        # tiles and stages
        self.cluster = variant.cluster
        self.blocks = variant.cluster  # of a tile: a CTA each
        self.slots = variant.slots
        self.q_steps = variant.q_steps_in_registers  # of the latent part's; the RoPE part stays in shared memory
        self.q_tail = variant.q_tail_steps
        self.handed, self.early = variant.handed_steps, variant.early_steps
        self.boxed = variant.boxed
        self.gathers = variant.gathers or self.boxed
        if self.gathers:
            if codes is None:
                self.rows = PlainRows(self)
            else:
                unscaled = NarrowRows if variant.narrow else UnscaledRows
                rows = TurnedRows if self.fp8_products else unscaled if self.one_scale else CodedRows
                self.rows = MadeCodes(self, codes) if self.regs_producer else rows(self, codes, self.boxed)
        self.bars = Barriers(self.slots, self.cluster, variant.barriers)

    @cute.jit
    def __call__(self, q: cute.Pointer, q_rope: cute.Pointer, kv: cute.Pointer, args: tuple, stream: cuda.CUstream):
        atom = warpgroup.make_smem_layout_atom(warpgroup.SmemLayoutAtomKind.K_SW128, self.dtype)
        slice_layout = cute.tile_to_shape(atom, (64, 64), order=(0, 1))
        # Only the order of the modes matters (d first, then as listed): the launcher encodes the true extents, strides
        # and boxes.
        n, d = 4096, self.d_qk  # n: any extent
        gKV = cute.make_tensor(
            cute.recast_ptr(kv, dtype=self.dtype),
            cute.make_layout((UNIT, d, n, n), stride=(d, 1, UNIT * d, 2 * UNIT * d)),
        )
        tma_q, mQ = self.map_queries(q, slice_layout)
        tma_q_rope, mQrope = self.map_queries(q_rope, slice_layout)
        load = cpasync.CopyBulkTensorTileG2SOp()
        if const_expr(self.cluster > 1):
            load = cpasync.CopyBulkTensorTileG2SMulticastOp()
        tma_kv, mKV = cpasync.make_tiled_tma_atom(load, gKV, slice_layout, (64, 64), num_multicast=self.cluster)
        self.smem = SharedMemory(self)
        self.shared_bytes = self.smem.storage.size_in_bytes()
        self.kernel(tma_q, mQ, tma_q_rope, mQrope, tma_kv, mKV, args).launch(
            grid=(1, 1, 1),
            block=(self.threads, 1, 1),
            cluster=(self.cluster, 1, 1),
            stream=stream,
            min_blocks_per_mp=1,
        )

    def map_queries(self, q, slice_layout):
        """The copy of slices of one part of Q, and what it copies from."""
        n, d = 4096, self.d_qk
        layout = cute.make_layout((n, d, n, n, n), stride=(d, 1, 2 * d, 3 * d, 4 * d))
        gQ = cute.make_tensor(cute.recast_ptr(q, dtype=self.dtype), layout)
        return cpasync.make_tiled_tma_atom(cpasync.CopyBulkTensorTileG2SOp(), gQ, slice_layout, (64, 64))

    @cute.kernel
    def kernel(
        self,
        tma_q: cute.CopyAtom,
        mQ: cute.Tensor,
        tma_q_rope: cute.CopyAtom,
        mQrope: cute.Tensor,
        tma_kv: cute.CopyAtom,
        mKV: cute.Tensor,
        args: tuple,
    ):
        # Parameters stay in constant memory: every role reads them from here at no cost.
        self.a = Named(PARAMS, args, **self.constants, **CUTS_ARE_READ)
        self.begin()
        gather_qk = UnscaledQK if self.one_scale else GatherQK
        q = (tma_q, tma_q_rope), (mQ, mQrope)
        maps = (tma_q, tma_q_rope) if self.rope else (tma_q,)
        if const_expr(self.boxed):
            loader = Boxes(self, *q, GatherReader(self), Pages(self), tma_kv, mKV)
            self.qk = (CodeQK if self.fp8_products else gather_qk)(self)
            self.pv = (CodePV if self.fp8_products else GatherPV)(self, loader)
            self.run_roles(*maps, tma_kv)
        elif const_expr(self.gathers):
            loader = Gather(self, *q, GatherReader(self), Pages(self))
            self.qk, self.pv = gather_qk(self), GatherPV(self, loader)
            self.run_roles(*maps)
        else:
            loader = (InvariantLoader if self.invariant else Loader)(self, *q, tma_kv, mKV)
            self.qk = (InvariantQK if self.invariant else QK)(self)
            self.pv = (InvariantPV if self.invariant else PV)(self, loader)
            self.run_roles(*maps, tma_kv)

    def begin(self):
        """Who this CTA is, and where its shared memory lies."""
        bidx, _, _ = cute.arch.block_idx()
        gdim, _, _ = cute.arch.grid_dim()
        several = self.blocks - 1  # of one or two
        self.rank, self.first_part, self.step = bidx & several, bidx >> several, gdim >> several
        self.bars.lie_at(self.smem.allocate())

    def begin_work(self, _warp):
        """Waits until what came before in the stream is done and visible."""
        cute.arch.griddepcontrol_wait()
        cute.arch.griddepcontrol_launch_dependents()  # only now: combine looks at the schedule before its own wait

    def begin_role(self):
        """What a role does before it begins, when it has its registers."""

    def take_registers(self, number):
        more = number > self.regs_at_entry
        (cute.arch.setmaxregister_increase if more else cute.arch.setmaxregister_decrease)(number)

    @cute.jit
    def run_others(self, role, warp):
        if const_expr(self.producer is None):
            self.run_pv(role, warp)
        elif role < WARPGROUPS:
            self.run_pv(role, warp)
        else:
            self.take_registers(self.regs_producer)
            self.begin_role()
            self.producer.run(warp % 4)

    @cute.jit
    def run_pv(self, role, warp):
        self.take_registers(self.regs_pv)
        self.begin_role()
        self.pv.run(role - 1, warp)

    @cute.jit
    def run_roles(self, *maps):
        """The warpgroups, when all is ready. maps: the tensor maps that will be used."""
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        role = cute.arch.make_warp_uniform(warp // 4)
        if warp == 0:
            for each in maps:
                cpasync.prefetch_descriptor(each)
            self.bars.init()
        cute.arch.mbarrier_init_fence()
        if const_expr(self.cluster > 1):
            cute.arch.cluster_arrive_relaxed()
            cute.arch.cluster_wait()
        else:
            cute.arch.sync_threads()
        self.begin_work(warp)
        if role == 0:
            self.take_registers(self.regs_qk)
            self.begin_role()
            self.qk.run(warp)
        else:
            self.run_others(role, warp)
        if const_expr(self.cluster > 1):  # nobody leaves while its peer may still signal it
            cute.arch.cluster_arrive()
            cute.arch.cluster_wait()
