"""Paged dense MLA decode for Hopper: split-KV over a work list, Q in registers, three KV slots, TMA multicast.

Work. A part of the schedule (libflashmla/src/internal.h) is done by one cluster of 1 or 2 CTAs; cluster c takes the
parts c, c + clusters, ... . A CTA owns one block of up to 64 query rows of the tile, so the CTAs of a cluster need
the same KV pages and share them by multicast.

384 threads, three warpgroups and no producer warp (with more threads ptxas caps a kernel at 128 registers, too few
for an m64n256 accumulator):
  QK   S = Q K^T for one unit of 64 tokens (m64n64), most of Q in registers, the rest in shared memory; online
       softmax; P -> shared memory.
  PV   two warpgroups, each O += P V for half of V's columns (m64n256, or m64n128 for d_v 256). The first warp of each
       also starts the TMA loads of its half of the next units (components/loader.py), as soon as that half of a slot
       is free in the whole cluster.

Shared memory: slots of d_v / 64 + 1 slices of 64 rows x 64 columns (128-byte swizzle), 72 KB for d_v 512. The last
slice is K's RoPE part, the others its latent part and V; once S of the unit is done, P (64 x 64) overwrites the RoPE
part. Without one (d_qk == d_v) that slice is P's alone. Q travels through the ring as an item in front of the units.

Order on the tensor cores: PV of a unit starts when S of the next one is nearly done, so PV runs under softmax and S has
the tensor cores to itself; when the next unit is late, PV starts at once.

Barriers, one per slot unless said: FULL (2 loaders + bytes), EMPTY x2 (left, right half; 4 warps of each CTA of the
cluster), PFULL (P and scale written, every fourth thread of QK), QKDONE (go signal for PV of the item before, warp 0
of QK), LFULL / LEMPTY (1 / row sum, one a tile; every fourth thread of QK, 8 warps of PV). Every item, Q included,
passes each of FULL, EMPTY, PFULL, QKDONE once, so the phase is (item / slots) & 1 everywhere.
"""

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
import cutlass.utils.hopper_helpers as sm90
from cutlass import BFloat16, Boolean, Float16, Float32, Int32, Int64, const_expr, max, min
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, warpgroup

from . import budget, params
from .components import epilogue, schedule, softmax
from .components.fragments import accumulator_rows, store_p, transposed
from .components.loader import CURSOR, Loader
from .components.named_barriers import NamedBarrier
from .variants import Variant

UNIT = 64  # tokens that are worked on as one; also the columns of a slice
HANDED = 8  # k-steps of S that are issued before P of the unit before is handed over


class DenseDecode:
    def __init__(self, variant: Variant):
        self.dtype = {"bfloat16": BFloat16, "float16": Float16}[variant.dtype]
        # threads and registers
        self.threads = 384
        self.regs_qk, self.regs_pv = variant.registers
        # geometry
        self.d_qk, self.d_v = variant.d_qk, variant.d_v
        self.half = variant.d_v // 2  # columns of one PV warpgroup
        self.half_slices = self.half // 64
        self.slices = budget.slot_slices(variant)
        self.last = self.slices - 1  # the slice of RoPE and P
        self.rope = budget.rope_slices(variant) > 0
        self.any_page = variant.any_page
        # tiles and stages
        self.cluster = variant.cluster
        self.slots = variant.slots
        self.q_steps = variant.q_steps_in_registers  # of the latent part's; the RoPE part stays in shared memory
        self.q_tail = budget.q_tail_steps(variant)
        self.lead = variant.lead_steps
        # barriers, by number
        s = self.slots
        self.FULL, self.EMPTY, self.PFULL, self.QKDONE = 0, s, 3 * s, 4 * s
        self.LFULL, self.LEMPTY = 5 * s, 5 * s + 1
        self.num_barriers = 5 * s + 2

    @cute.jit
    def __call__(self, q: cute.Pointer, kv: cute.Pointer, args: tuple, stream: cuda.CUstream):
        dt = self.dtype
        atom = warpgroup.make_smem_layout_atom(warpgroup.SmemLayoutAtomKind.K_SW128, dt)
        slice_layout = cute.tile_to_shape(atom, (64, 64), order=(0, 1))
        # Only the order of the modes matters (d first, then as listed): the launcher encodes the true extents, strides
        # and boxes.
        n, d = 4096, self.d_qk  # n: any extent
        gQ = cute.make_tensor(q, cute.make_layout((n, d, n, n, n), stride=(d, 1, 2 * d, 3 * d, 4 * d)))
        gKV = cute.make_tensor(kv, cute.make_layout((UNIT, d, n, n), stride=(d, 1, UNIT * d, 2 * UNIT * d)))
        load = cpasync.CopyBulkTensorTileG2SOp()
        tma_q, mQ = cpasync.make_tiled_tma_atom(load, gQ, slice_layout, (64, 64))
        if const_expr(self.cluster > 1):
            load = cpasync.CopyBulkTensorTileG2SMulticastOp()
        tma_kv, mKV = cpasync.make_tiled_tma_atom(load, gKV, slice_layout, (64, 64), num_multicast=self.cluster)

        @cute.struct
        class Storage:
            barriers: cute.struct.MemRange[Int64, self.num_barriers]
            base: cute.struct.MemRange[Int64, 2]
            extent: cute.struct.MemRange[Int32, 2 * epilogue.NARROW_WORDS]
            shard: cute.struct.MemRange[Int32, 2]
            cursors: cute.struct.MemRange[Int32, 2 * CURSOR]
            scale: cute.struct.MemRange[Float32, 64 * self.slots]
            kv: cute.struct.Align[cute.struct.MemRange[dt, UNIT * 64 * self.slices * self.slots], 1024]
            q_rope: cute.struct.Align[cute.struct.MemRange[dt, 64 * 64 * self.rope], 1024]
            q_tail: cute.struct.Align[cute.struct.MemRange[dt, 64 * 16 * self.q_tail], 1024]

        self.storage = Storage
        self.shared_bytes = Storage.size_in_bytes()
        self.kernel(tma_q, mQ, tma_kv, mKV, args).launch(
            grid=(1, 1, 1),
            block=(self.threads, 1, 1),
            cluster=(self.cluster, 1, 1),
            stream=stream,
            min_blocks_per_mp=1,
        )

    @cute.kernel
    def kernel(self, tma_q: cute.CopyAtom, mQ: cute.Tensor, tma_kv: cute.CopyAtom, mKV: cute.Tensor, args: tuple):
        # Parameters stay in constant memory: every role reads them from here at no cost.
        self.a = params.Named(params.DENSE_DECODE, args)
        bidx, _, _ = cute.arch.block_idx()
        gdim, _, _ = cute.arch.grid_dim()
        self.rank, self.step = bidx % self.cluster, gdim // self.cluster
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        role = cute.arch.make_warp_uniform(warp // 4)
        self.allocate()
        self.loader = self.make_loader(tma_q, mQ, tma_kv, mKV)
        if warp == 0:
            cpasync.prefetch_descriptor(tma_q)
            cpasync.prefetch_descriptor(tma_kv)
            self.init_barriers()
        cute.arch.mbarrier_init_fence()
        if const_expr(self.cluster > 1):
            cute.arch.cluster_arrive_relaxed()
            cute.arch.cluster_wait()
        else:
            cute.arch.sync_threads()
        cute.arch.griddepcontrol_wait()  # what came before in the stream is done and visible
        cute.arch.griddepcontrol_launch_dependents()  # only now: combine looks at the schedule before its own wait

        if role == 0:
            cute.arch.setmaxregister_increase(self.regs_qk)
            self.qk(bidx // self.cluster, warp)
        else:
            cute.arch.setmaxregister_decrease(self.regs_pv)
            self.pv(bidx // self.cluster, role - 1, warp)
        if const_expr(self.cluster > 1):  # nobody leaves while its peer may still signal it
            cute.arch.cluster_arrive()
            cute.arch.cluster_wait()

    # ---- set-up ------------------------------------------------------------------------------------------------------

    def allocate(self):
        """Shared memory as tensors."""
        st = cutlass.memory.SmemAllocator().allocate(self.storage)
        swizzle = warpgroup.SmemLayoutAtomKind
        atom = warpgroup.make_smem_layout_atom(swizzle.K_SW128, self.dtype)
        slot = cute.tile_to_shape(atom, (UNIT, 64 * self.slices, self.slots), order=(0, 1, 2))
        slices = cute.tile_to_shape(atom, (64, 64, self.slices * self.slots), order=(0, 1, 2))
        rope = cute.tile_to_shape(atom, (64, 64), order=(0, 1))
        self.bars = st.barriers.data_ptr()
        self.sBase = st.base.get_tensor(cute.make_layout(2))
        self.sNarrow = st.extent.get_tensor(cute.make_layout((epilogue.NARROW_WORDS, 2)))
        self.sShard = st.shard.get_tensor(cute.make_layout(2))
        self.sCursor = st.cursors.get_tensor(cute.make_layout((CURSOR, 2)))
        self.kv = st.kv.data_ptr()
        self.sScale = st.scale.get_tensor(cute.make_layout((64, self.slots)))
        self.sK = st.kv.get_tensor(slot.outer, swizzle=slot.inner)  # (64, 64 * slices, slots)
        self.sS = st.kv.get_tensor(slices.outer, swizzle=slices.inner)  # the same bytes as (64, 64, slices * slots)
        self.sPlain = cute.make_tensor(st.kv.data_ptr(), slices.outer)  # for addresses: without the swizzle
        # the same bytes, unswizzled: a row of a slice is 8 chunks of 16 bytes
        chunks = cute.make_layout((4, 8, 64, self.slices * self.slots), stride=(1, 4, 32, 2048))
        self.sWords = cute.make_tensor(cute.recast_ptr(st.kv.data_ptr(), dtype=Int32), chunks)
        if const_expr(self.rope):
            self.sQrope = st.q_rope.get_tensor(rope.outer, swizzle=rope.inner)
        if const_expr(self.q_tail > 0):
            atom = warpgroup.make_smem_layout_atom(swizzle.K_SW32, self.dtype)
            tail = cute.tile_to_shape(atom, (64, 16 * self.q_tail), order=(0, 1))
            self.sQtail = st.q_tail.get_tensor(tail.outer, swizzle=tail.inner)

    @cute.jit
    def init_barriers(self):
        bars = self.bars
        with cute.arch.elect_one():
            for i in cutlass.range_constexpr(self.slots):
                cute.arch.mbarrier_init(bars + self.FULL + i, 2)
                cute.arch.mbarrier_init(bars + self.EMPTY + 2 * i, 4 * self.cluster)
                cute.arch.mbarrier_init(bars + self.EMPTY + 2 * i + 1, 4 * self.cluster)
                cute.arch.mbarrier_init(bars + self.PFULL + i, 32)
                cute.arch.mbarrier_init(bars + self.QKDONE + i, 1)
            cute.arch.mbarrier_init(bars + self.LFULL, 32)
            cute.arch.mbarrier_init(bars + self.LEMPTY, 8)

    def make_loader(self, tma_q, mQ, tma_kv, mKV):
        gQ = cute.group_modes(cute.local_tile(mQ, (64, 64), (None, None, None, None, None)), 0, 2)
        tQs, tQg = cpasync.tma_partition(tma_q, 0, cute.make_layout(1), cute.group_modes(self.sS, 0, 2), gQ)
        self.tma_kv = tma_kv
        if const_expr(self.any_page):
            return Loader(self, (tma_q, tQg, tQs), (tma_kv, None, None), mKV)
        return Loader(self, (tma_q, tQg, tQs), (tma_kv, *self.partition_kv(self.sS, mKV, self.rank)))

    def partition_kv(self, slices, mKV, rank):
        """Source (box, 0, slice of columns, KV head, block) and destination (box, slice) of a CTA's part of 64 rows."""
        gKV = cute.group_modes(cute.local_tile(mKV, (64, 64), (None, None, None, None)), 0, 2)
        layout = cute.make_layout(self.cluster)
        tKs, tKg = cpasync.tma_partition(self.tma_kv, rank, layout, cute.group_modes(slices, 0, 2), gKV)
        return tKg, tKs

    def partition_rows(self, mKV, row, at):
        """The same from `row` of the blocks on, to row `at` of the slots: a box alone, at its plain address."""
        slices = cute.make_tensor(self.sPlain.iterator + at * 64, self.sPlain.layout)
        return self.partition_kv(slices, cute.domain_offset((row, 0, 0, 0), mKV), 0)

    # ---- helpers -----------------------------------------------------------------------------------------------------

    def slot_phase(self, item):
        return item % self.slots, (item // self.slots) & 1

    def slice_start(self, slot, which):
        """Address of a slice: 64 rows of 128 bytes."""
        return self.kv + cute.assume(64 * 64 * (self.slices * slot + which), divby=4096)

    @cute.jit
    def open_piece(self, w, t, limit: cutlass.Constexpr):
        """The piece of tile t in part w: (tokens from its begin on that a row of this CTA's block attends, units).
        `limit` says which row: schedule.first_limit or last_limit.
        """
        a = self.a
        b, _, k = schedule.tile_place(a, t)
        _, count = schedule.query_range(a, b)
        length = schedule.length_of(a, b)
        units = schedule.tile_units(a, b, length, count, k, self.cluster)
        lo, hi = schedule.piece_units(a, w, t, units)
        return limit(a, b, length, count, k * self.cluster + self.rank) - lo * UNIT, hi - lo

    @cute.jit
    def note_shard(self, t):
        """What mask needs in a shard, for the tile: into shared memory, since QK has no register left. The barrier in
        take_q shows it to all warps; the one before P is stored holds this back until all have masked the last piece.
        """
        a, sShard = self.a, self.sShard
        if (a.cp_period != 0) and (epilogue.thread_now() < 32):
            b, _, k = schedule.tile_place(a, t)
            _, count = schedule.query_range(a, b)
            token = min(schedule.first_token(a, k * self.cluster + self.rank), count - 1)
            tokens = schedule.global_length(a, b) - a.causal * (count - 1 - token)
            with cute.arch.elect_one():
                sShard[0], sShard[1] = schedule.length_of(a, b), tokens

    @cute.jit
    def gemm(
        self,
        mma: cute.TiledMma,
        acc: cute.Tensor,
        A: cute.Tensor,
        B: cute.Tensor,
        steps: cutlass.Constexpr,
        zero: cutlass.Constexpr,
        b0: cutlass.Constexpr = 0,
    ):
        """acc (+)= A B over the k-steps (first, end) of A, with B shifted by b0 k-steps."""
        atom = cute.make_mma_atom(mma.op)
        atom.set(warpgroup.Field.ACCUMULATE, not zero)
        for k in cutlass.range_constexpr(*steps):
            cute.gemm(atom, acc, A[None, None, k], B[None, None, b0 + k], acc)
            atom.set(warpgroup.Field.ACCUMULATE, True)

    @cute.jit
    def release(self, bar):
        """One arrival of this warp, on this barrier in every CTA of the cluster."""
        cute.arch.sync_warp()
        with cute.arch.elect_one():
            if const_expr(self.cluster > 1):
                for c in cutlass.range_constexpr(self.cluster):
                    cute.arch.mbarrier_arrive(bar, c)
            else:
                cute.arch.mbarrier_arrive(bar)

    @cute.jit
    def arrive(self, bar):
        with cute.arch.elect_one():
            cute.arch.mbarrier_arrive(bar)

    @cute.jit
    def arrive_quads(self, bar):
        """One arrival of every fourth lane: those that write the scales of their rows."""
        tid, _, _ = cute.arch.thread_idx()
        cute.arch.sync_warp()
        if (tid & 3) == 0:
            cute.arch.mbarrier_arrive(bar)

    @cute.jit
    def hand_over(self, item):
        """P and scale of the item were written with ordinary stores: shows them to the tensor cores and says so."""
        cute.arch.fence_proxy("async.shared", space="cta")
        self.arrive_quads(self.bars + self.PFULL + item % self.slots)

    @cute.jit
    def go(self, item, warp):
        """PV of the item may start."""
        if warp == 0:
            self.arrive(self.bars + self.QKDONE + item % self.slots)

    # ---- QK and softmax ----------------------------------------------------------------------------------------------

    @cute.jit
    def qk(self, first, warp):
        a, bars, sScale, sShard, dt = self.a, self.bars, self.sScale, self.sShard, self.dtype
        K, rmem = OperandMajorMode.K, warpgroup.OperandSource.RMEM
        mma_rs = sm90.make_trivial_tiled_mma(dt, dt, K, K, Float32, (1, 1, 1), (64, UNIT), rmem)
        mma_ss = sm90.make_trivial_tiled_mma(dt, dt, K, K, Float32, (1, 1, 1), (64, UNIT))
        tid, _, _ = cute.arch.thread_idx()
        thr_rs, thr_ss = mma_rs.get_slice(tid), mma_ss.get_slice(tid)
        rK = thr_rs.make_fragment_B(thr_rs.partition_B(cute.local_tile(self.sK, (64, self.d_v), (0, 0, None))))
        rQ = cute.make_rmem_tensor(thr_rs.partition_shape_A((64, 16 * self.q_steps)), dt)
        if const_expr(self.q_tail > 0):
            rQtail = thr_ss.make_fragment_A(thr_ss.partition_A(self.sQtail))
        if const_expr(self.rope):
            rKrope = thr_ss.make_fragment_B(thr_ss.partition_B(self.sS))
            rQrope = thr_ss.make_fragment_A(thr_ss.partition_A(self.sQrope))
        row_max = cute.make_rmem_tensor((2,), Float32)
        row_sum = cute.make_rmem_tensor((2,), Float32)
        it, parity = Int32(0), Int32(1)
        w, t = schedule.seek(a, first, Int32(0), self.step, self.cluster)
        while w < a.num_parts:
            left, n = self.open_piece(w, t, schedule.first_limit)
            self.note_shard(t)
            slot, phase = self.slot_phase(it)
            cute.arch.mbarrier_wait(bars + self.FULL + slot, phase)
            self.take_q(slot, mma_rs, rQ, tid)
            self.release(bars + self.EMPTY + 2 * slot)
            self.release(bars + self.EMPTY + 2 * slot + 1)
            it += 1
            row_max.fill(-Float32.inf)
            row_sum.fill(0.0)
            here = Boolean(False)
            while n > 0:
                slot, phase = self.slot_phase(it)
                rS = cute.make_rmem_tensor(thr_rs.partition_shape_C((64, UNIT)), Float32)
                # When the page is not there yet the tensor cores are free: the page before goes to PV at once.
                if not here:
                    self.hand_over(it - 1)
                    self.go(it - 1, warp)
                    cute.arch.mbarrier_wait(bars + self.FULL + slot, phase)
                warpgroup.fence()
                # The warps stall in the issue of a long chain, so: HANDED k-steps, the hand-over of the page before,
                # then the rest. The last `lead` + 4 k-steps are a group of their own, so that PV is told to go a little
                # before S is done.
                sB = rK[None, None, None, slot]
                self.gemm(mma_rs, rS, rQ, sB, (0, HANDED), True)
                if here:
                    self.hand_over(it - 1)
                cute.arch.mbarrier_wait(bars + self.LEMPTY, parity)  # the last tile's 1 / row sum was read (long ago)
                warpgroup.fence()  # behind a branch the compiler wants one, and serialises where it puts it in itself
                self.gemm(mma_rs, rS, rQ, sB, (HANDED, self.q_steps - self.lead), False)
                warpgroup.commit_group()
                self.gemm(mma_rs, rS, rQ, sB, (self.q_steps - self.lead, self.q_steps), False)
                if const_expr(self.q_tail > 0):
                    self.gemm(mma_ss, rS, rQtail, sB, (0, self.q_tail), False, self.q_steps)
                if const_expr(self.rope):
                    rB = rKrope[None, None, None, self.slices * slot + self.last]
                    self.gemm(mma_ss, rS, rQrope, rB, (0, 4), False)
                warpgroup.commit_group()
                warpgroup.wait_group(1)
                if here:
                    self.go(it - 1, warp)
                warpgroup.wait_group(0)
                n -= 1
                thread = epilogue.thread_now()
                s_rows = accumulator_rows(rS)
                if left < UNIT:
                    softmax.mask(a, s_rows, thread, left, sShard[0], sShard[1])
                left -= UNIT
                scale = softmax.online_softmax(a.scale_log2, s_rows, row_max, row_sum)
                rP = cute.make_rmem_tensor_like(rS, dt)
                rP.store(rS.load().to(dt))
                # every warp must be past its S before P overwrites the RoPE slice
                cute.arch.barrier(barrier_id=NamedBarrier.QK, number_of_threads=128)
                store_p(cute.recast_tensor(rP, Int32), self.slice_start(slot, self.last), thread)
                if (thread & 3) == 0:
                    row = softmax.row_of(thread)
                    sScale[row, slot] = scale[0]
                    sScale[row + 8, slot] = scale[1]
                it += 1
                slot, phase = self.slot_phase(it)
                here = cute.arch.vote_all_sync(cute.arch.mbarrier_test_wait(bars + self.FULL + slot, phase))
            self.hand_over(it - 1)
            self.go(it - 1, warp)
            # 1 / row sum travels in the scale array of the next item's slot (a Q item, which needs none): the slot's
            # last page must be done, and the last tile's 1 / row sum read
            slot, phase = self.slot_phase(it)
            cute.arch.mbarrier_wait(bars + self.LEMPTY, parity)
            cute.arch.mbarrier_wait(bars + self.EMPTY + 2 * slot, phase ^ 1)
            cute.arch.mbarrier_wait(bars + self.EMPTY + 2 * slot + 1, phase ^ 1)
            epilogue.finish_rows(self, w, t, parity ^ 1, row_max, row_sum, sScale[None, slot])
            self.arrive_quads(bars + self.LFULL)
            parity ^= 1
            w, t = schedule.seek(a, w, t + 1, self.step, self.cluster)

    @cute.jit
    def take_q(self, slot, mma: cute.TiledMma, rQ: cute.Tensor, tid):
        """Q from its slot: the first k-steps to registers, the last and the RoPE part to their own shared memory."""
        dt = self.dtype
        load = cute.make_copy_atom(cute.nvgpu.warp.LdMatrix8x8x16bOp(False, 4), dt)
        store = cute.make_copy_atom(cute.nvgpu.warp.StMatrix8x8x16bOp(False, 4), dt)
        thr_load = cute.make_tiled_copy_A(load, mma).get_slice(tid)
        thr_save = cute.make_tiled_copy_A(store, mma).get_slice(tid)
        thr = mma.get_slice(tid)
        tLsK = thr_load.partition_S(cute.local_tile(self.sK, (64, self.d_v), (0, 0, None)))
        if const_expr(self.rope):
            rope = cute.make_rmem_tensor(thr.partition_shape_A((64, 64)), dt)
            src = thr_load.partition_S(self.sS)[None, None, None, self.slices * slot + self.last]
            cute.copy(thr_load, src, thr_load.retile(rope))
            cute.copy(thr_save, thr_save.retile(rope), thr_save.partition_D(self.sQrope))
        for i in cutlass.range_constexpr(self.q_tail):
            step = cute.make_rmem_tensor(thr.partition_shape_A((64, 16)), dt)
            cute.copy(thr_load, tLsK[None, None, self.q_steps + i, slot], thr_load.retile(step)[None, None, 0])
            cute.copy(thr_save, thr_save.retile(step)[None, None, 0], thr_save.partition_D(self.sQtail)[None, None, i])
        for i in cutlass.range_constexpr(self.q_steps):
            cute.copy(thr_load, tLsK[None, None, i, slot], thr_load.retile(rQ)[None, None, i])
        cute.arch.fence_proxy("async.shared", space="cta")
        cute.arch.barrier(barrier_id=NamedBarrier.QK, number_of_threads=128)

    # ---- PV ----------------------------------------------------------------------------------------------------------

    @cute.jit
    def pv(self, first, half, warp):
        a, bars, sScale, dt = self.a, self.bars, self.sScale, self.dtype
        lead = (warp % 4) == 0
        w, t = schedule.seek(a, first, Int32(0), self.step, self.cluster)
        page = Int32(0)
        if lead:
            page = self.loader.start(half, w, t)
        K, MN = OperandMajorMode.K, OperandMajorMode.MN
        mma = sm90.make_trivial_tiled_mma(dt, dt, K, MN, Float32, (1, 1, 1), (64, self.half))
        tid, _, _ = cute.arch.thread_idx()
        tid %= 128
        thr = mma.get_slice(tid)
        sV = cute.local_tile(transposed(self.sK), (self.half, 64), (None, 0, None))
        rV = thr.make_fragment_B(thr.partition_B(sV))  # (MMA, 1, 4, halves, slots)
        rP = thr.make_fragment_A(thr.partition_A(self.sS))
        rO = cute.make_rmem_tensor(thr.partition_shape_C((64, self.half)), Float32)
        o_rows = accumulator_rows(rO)
        row = softmax.row_of(tid)
        it, parity = Int32(0), Int32(0)
        while w < a.num_parts:
            left, n = self.open_piece(w, t, schedule.last_limit)
            if lead:  # into the slot of Q
                page = self.loader.fetch(half, it + self.slots, page)
            slot, phase = self.slot_phase(it)  # nothing to do for Q but to see its phases pass
            cute.arch.mbarrier_wait(bars + self.PFULL + slot, phase)
            cute.arch.mbarrier_wait(bars + self.QKDONE + slot, phase)
            it += 1
            rO.fill(0.0)
            some = n > 0
            while n > 0:
                slot, phase = self.slot_phase(it)
                cute.arch.mbarrier_wait(bars + self.PFULL + slot, phase)
                scale0, scale1 = sScale[row, slot], sScale[row + 8, slot]
                if cute.arch.vote_any_sync(scale0 * scale1 != 1.0):
                    o_rows[0, None].store(o_rows[0, None].load() * scale0)
                    o_rows[1, None].store(o_rows[1, None].load() * scale1)
                cute.arch.mbarrier_wait(bars + self.FULL + slot, phase)
                if self.shared_left(left) < UNIT:
                    self.clear_dead_rows(half, slot, left)
                left -= UNIT
                n -= 1
                cute.arch.mbarrier_wait(bars + self.QKDONE + slot, phase)
                warpgroup.fence()
                rPs = rP[None, None, None, self.slices * slot + self.last]
                self.gemm(mma, rO, rPs, rV[None, None, None, half, slot], (0, 4), False)
                warpgroup.commit_group()
                warpgroup.wait_group(0)
                if n > 0:
                    self.release(bars + self.EMPTY + 2 * slot + half)
                    if lead:
                        page = self.loader.fetch(half, it + self.slots, page)
                it += 1
            cute.arch.mbarrier_wait(bars + self.LFULL, parity)
            slot, _ = self.slot_phase(it)
            inverse0, inverse1 = sScale[row, slot], sScale[row + 8, slot]
            cute.arch.sync_warp()
            self.arrive(bars + self.LEMPTY)
            # this half of the last unit's slot serves to turn rows round, and only then is given back
            slot, _ = self.slot_phase(it + (self.slots - 1))
            stage = self.slice_start(slot, self.half_slices * half)
            epilogue.store_rows(self, parity, half, o_rows, (inverse0, inverse1), stage, some)
            parity ^= 1
            if some:
                cute.arch.fence_proxy("async.shared", space="cta")
                self.release(bars + self.EMPTY + 2 * slot + half)
                if lead:
                    page = self.loader.fetch(half, it + (self.slots - 1), page)
            w, t = schedule.seek(a, w, t + 1, self.step, self.cluster)

    @cute.jit
    def clear_dead_rows(self, half, slot, left):
        """Clears this half of the V rows that not every row of the block attends, because 0 * NaN is NaN.

        Rows that none attends become zeros. In rows that some attend, NaN and infinities become zeros: V is part of K,
        so a row that attends them has NaN from its logits anyway, or gives them no weight. A lane takes 16 bytes of a
        row.
        """
        sWords, thread = self.sWords, epilogue.thread_now()
        exponent = 0x7F80 if const_expr(self.dtype is BFloat16) else 0x7C00  # all ones: NaN or infinity
        lanes = 8 * self.half_slices  # of a row
        which = self.slices * slot + self.half_slices * half + thread % lanes // 8
        words = cute.make_rmem_tensor((4,), Int32)
        for row in cutlass.range(max(self.shared_left(left), 0) + thread // lanes, UNIT, 128 // lanes, unroll=1):
            chunk = sWords[None, thread % 8, row, which]
            cute.autovec_copy(chunk, words)
            for i in cutlass.range_constexpr(4):
                low = 0 if (words[i] & exponent) == exponent else words[i] & 0xFFFF
                high = 0 if ((words[i] >> 16) & exponent) == exponent else words[i] & -0x10000
                words[i] = low | high if row < left else 0
            cute.autovec_copy(words, chunk)
        cute.arch.fence_proxy("async.shared", space="cta")
        cute.arch.barrier(barrier_id=NamedBarrier.PV_LEFT + schedule.opaque(half), number_of_threads=128)

    def shared_left(self, left):
        """Of the `left` tokens that the block's last row attends from here on, as many as all its rows do, or fewer:
        the limits of neighbouring query tokens differ by one at most, in a shard too.
        """
        return left - self.a.causal * (self.a.block_tokens - 1)
