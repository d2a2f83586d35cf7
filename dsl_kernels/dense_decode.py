"""Paged dense MLA decode for Hopper: split-KV over a work list, Q in registers, three KV slots, TMA multicast.

Work. A part of the schedule (libflashmla/src/internal.h) is done by one cluster of 1 or 2 CTAs; cluster c takes the parts c, c + clusters, ... .
A CTA owns one block of up to 64 query rows of the tile, so the CTAs of a cluster need the same KV pages and share them by multicast.

384 threads, three warpgroups and no producer warp (with more threads ptxas caps a kernel at 128 registers, too few for an m64n256 accumulator):
  QK   S = Q K^T for one page (m64n64), most of Q in registers, the rest in shared memory; online softmax; P -> shared memory.
  PV   two warpgroups, O[:, 0:256] and O[:, 256:512] += P V (m64n256). The first warp of each also starts the TMA loads of its half
       of the next pages, as soon as that half of a slot is free in the whole cluster.

Shared memory: slots of 72 KB, each 9 slices of 64 rows x 64 columns (128-byte swizzle). Slices 0-7 are K's latent part and V, slice 8 is K's RoPE
part; once S of the page is done, P (64 x 64) overwrites slice 8. Q travels through the ring as an item in front of the tile's pages.

Order on the tensor cores: PV of a page starts when S of the next page is nearly done, so PV runs under softmax and S has the tensor cores to itself.

Barriers, one per slot unless said: FULL (2 loaders + bytes), EMPTY x2 (left, right half; 4 warps of each CTA of the cluster), PFULL (P and scale
written), QKDONE (go signal for PV of the item before), LFULL / LEMPTY (1 / row sum, one a tile). Every item, Q included, passes each of
FULL, EMPTY, PFULL, QKDONE once, so the phase is (item / slots) & 1 everywhere.
"""

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
import cutlass.utils.hopper_helpers as sm90
from cutlass import BFloat16, Float16, Float32, Int16, Int32, Int64, const_expr, max, min
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, warpgroup

from . import params
from .components import schedule
from .components.fragments import accumulator_rows, transposed
from .components.named_barriers import NamedBarrier
from .variants import Variant

PAGE, D_QK, D_V = 64, 576, 512
SLICES = D_QK // 64  # of a slot; slice 8 is the RoPE part
ROPE = SLICES - 1
EVICT_FIRST = 0x12F0000000000000  # L2 policy: the line is the first to go
LN2 = 0.6931471805599453
LAZY_LOG2 = 8.0  # a row maximum may be this much too small (log2) before the output is rescaled: P <= 2^8 is exact enough in bf16 and fp16

# Cursor of a loader in shared memory, one per half: the next item to load. Kept there because the warp has no registers to spare.
PART, TILE, PAGE_INDEX, PAGE_END, REQUEST, HEAD, CURSOR = range(7)
Q_ITEM = -1  # page index of the item that carries Q


def tree_max(values):
    while len(values) > 1:
        values = [cute.arch.fmax(x, y) for x, y in zip(values[::2], values[1::2], strict=True)]
    return values[0]


class DenseDecode:
    def __init__(self, variant: Variant):
        self.dtype = {"bfloat16": BFloat16, "float16": Float16}[variant.dtype]
        # threads and registers
        self.threads = 384
        self.regs_qk, self.regs_pv = variant.registers
        # tiles and stages
        self.cluster = variant.cluster
        self.slots = variant.slots
        self.q_steps = variant.q_steps_in_registers  # of the 32 k-steps of the latent part; the RoPE part stays in shared memory
        self.q_tail = 32 - self.q_steps
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
        # Only the order of the modes matters (d first, then as listed): the launcher encodes the true extents, strides and boxes.
        any_extent, d = 4096, D_QK
        gQ = cute.make_tensor(q, cute.make_layout((any_extent, d, any_extent, any_extent, any_extent), stride=(d, 1, 2 * d, 3 * d, 4 * d)))
        gKV = cute.make_tensor(kv, cute.make_layout((PAGE, d, any_extent, any_extent), stride=(d, 1, PAGE * d, 2 * PAGE * d)))
        load = cpasync.CopyBulkTensorTileG2SOp()
        tma_q, mQ = cpasync.make_tiled_tma_atom(load, gQ, slice_layout, (64, 64))
        if const_expr(self.cluster > 1):
            load = cpasync.CopyBulkTensorTileG2SMulticastOp()
        tma_kv, mKV = cpasync.make_tiled_tma_atom(load, gKV, slice_layout, (64, 64), num_multicast=self.cluster)

        @cute.struct
        class Storage:
            barriers: cute.struct.MemRange[Int64, self.num_barriers]
            cursors: cute.struct.MemRange[Int32, 2 * CURSOR]
            scale: cute.struct.MemRange[Float32, 64 * self.slots]
            kv: cute.struct.Align[cute.struct.MemRange[dt, PAGE * D_QK * self.slots], 1024]
            q_rope: cute.struct.Align[cute.struct.MemRange[dt, 64 * 64], 1024]
            q_tail: cute.struct.Align[cute.struct.MemRange[dt, 64 * 16 * self.q_tail], 1024]

        self.storage = Storage
        self.shared_bytes = Storage.size_in_bytes()
        self.kernel(tma_q, mQ, tma_kv, mKV, args).launch(
            grid=(1, 1, 1), block=(self.threads, 1, 1), cluster=(self.cluster, 1, 1), stream=stream, min_blocks_per_mp=1
        )

    @cute.kernel
    def kernel(self, tma_q: cute.CopyAtom, mQ: cute.Tensor, tma_kv: cute.CopyAtom, mKV: cute.Tensor, args: tuple):
        # Parameters stay in constant memory: every role reads them from here at no cost.
        self.a = a = params.Named(params.DENSE_DECODE, args)
        dt = self.dtype
        bidx, _, _ = cute.arch.block_idx()
        gdim, _, _ = cute.arch.grid_dim()
        self.rank, self.step = bidx % self.cluster, gdim // self.cluster
        first = bidx // self.cluster
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        role = cute.arch.make_warp_uniform(warp // 4)

        # shared memory
        st = cutlass.memory.SmemAllocator().allocate(self.storage)
        atom = warpgroup.make_smem_layout_atom(warpgroup.SmemLayoutAtomKind.K_SW128, dt)
        l_page = cute.tile_to_shape(atom, (PAGE, D_QK, self.slots), order=(0, 1, 2))
        l_slice = cute.tile_to_shape(atom, (64, 64, SLICES * self.slots), order=(0, 1, 2))
        l_rope = cute.tile_to_shape(atom, (64, 64), order=(0, 1))
        atom32 = warpgroup.make_smem_layout_atom(warpgroup.SmemLayoutAtomKind.K_SW32, dt)
        l_tail = cute.tile_to_shape(atom32, (64, 16 * self.q_tail), order=(0, 1))
        self.bars = st.barriers.data_ptr()
        self.sCursor = st.cursors.get_tensor(cute.make_layout((CURSOR, 2)))
        self.sScale = st.scale.get_tensor(cute.make_layout((64, self.slots)))
        self.sK = st.kv.get_tensor(l_page.outer, swizzle=l_page.inner)  # (64, 576, slots)
        self.sS = st.kv.get_tensor(l_slice.outer, swizzle=l_slice.inner)  # the same bytes as (64, 64, 9 * slots)
        self.sWords = cute.make_tensor(  # the same bytes, unswizzled: a row of a slice is 8 chunks of 16 bytes
            cute.recast_ptr(st.kv.data_ptr(), dtype=Int32), cute.make_layout((4, 8, 64, SLICES * self.slots), stride=(1, 4, 32, 2048))
        )
        self.sQrope = st.q_rope.get_tensor(l_rope.outer, swizzle=l_rope.inner)
        self.sQtail = st.q_tail.get_tensor(l_tail.outer, swizzle=l_tail.inner)

        if warp == 0:
            cpasync.prefetch_descriptor(tma_q)
            cpasync.prefetch_descriptor(tma_kv)
            with cute.arch.elect_one():
                for i in cutlass.range_constexpr(self.slots):
                    cute.arch.mbarrier_init(self.bars + self.FULL + i, 2)
                    cute.arch.mbarrier_init(self.bars + self.EMPTY + 2 * i, 4 * self.cluster)
                    cute.arch.mbarrier_init(self.bars + self.EMPTY + 2 * i + 1, 4 * self.cluster)
                    cute.arch.mbarrier_init(self.bars + self.PFULL + i, 4)
                    cute.arch.mbarrier_init(self.bars + self.QKDONE + i, 1)
                cute.arch.mbarrier_init(self.bars + self.LFULL, 4)
                cute.arch.mbarrier_init(self.bars + self.LEMPTY, 8)
        cute.arch.mbarrier_init_fence()
        if const_expr(self.cluster > 1):
            cute.arch.cluster_arrive_relaxed()
            cute.arch.cluster_wait()
        else:
            cute.arch.sync_threads()

        cute.arch.griddepcontrol_launch_dependents()
        cute.arch.griddepcontrol_wait()  # what came before in the stream is done and visible

        if role == 0:
            cute.arch.setmaxregister_increase(self.regs_qk)
            self.qk(first, warp)
        else:
            cute.arch.setmaxregister_decrease(self.regs_pv)
            self.pv(first, role - 1, warp, tma_q, mQ, tma_kv, mKV)
        if const_expr(self.cluster > 1):  # nobody leaves while its peer may still signal it
            cute.arch.cluster_arrive()
            cute.arch.cluster_wait()

    # ---- helpers ---------------------------------------------------------------------------------------------------

    def slot_phase(self, item):
        return item % self.slots, (item // self.slots) & 1

    @cute.jit
    def thread_now(self):
        """Thread number in the warpgroup, read on the spot: what hangs on it is then not kept in registers across the loop."""
        x, _, _ = cute.arch.thread_idx()
        return self.opaque(x) % 128

    @cute.jit
    def opaque(self, x):
        """The same value, but the compiler cannot share work done on it before."""
        return cute.arch.inline_ptx("mov.b32 {$w0}, {$r0};", write_only_types=[Int32], read_only_args=[Int32(x)])

    @cute.jit
    def gemm(self, mma: cute.TiledMma, acc: cute.Tensor, A: cute.Tensor, B: cute.Tensor, steps: cutlass.Constexpr, zero: cutlass.Constexpr, b0: cutlass.Constexpr = 0):
        """acc (+)= A B over the k-steps (first, end) of A, with B shifted by b0 k-steps."""
        atom = cute.make_mma_atom(mma.op)
        atom.set(warpgroup.Field.ACCUMULATE, not zero)
        for k in cutlass.range_constexpr(*steps):
            cute.gemm(atom, acc, A[None, None, k], B[None, None, b0 + k], acc)
            atom.set(warpgroup.Field.ACCUMULATE, True)

    @cute.jit
    def release(self, bar):
        """One arrival of this warp, on this barrier in every CTA of the cluster."""
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
    def hand_over(self, item):
        """P and scale of the item were written with ordinary stores: make them visible to the tensor cores and say so."""
        cute.arch.fence_proxy("async.shared", space="cta")
        cute.arch.sync_warp()
        self.arrive(self.bars + self.PFULL + item % self.slots)

    # ---- QK and softmax --------------------------------------------------------------------------------------------

    @cute.jit
    def qk(self, first, warp):
        a, bars, sScale, dt = self.a, self.bars, self.sScale, self.dtype
        K = OperandMajorMode.K
        mma_rs = sm90.make_trivial_tiled_mma(dt, dt, K, K, Float32, (1, 1, 1), (64, PAGE), warpgroup.OperandSource.RMEM)
        mma_ss = sm90.make_trivial_tiled_mma(dt, dt, K, K, Float32, (1, 1, 1), (64, PAGE))
        tid, _, _ = cute.arch.thread_idx()
        thr_rs, thr_ss = mma_rs.get_slice(tid), mma_ss.get_slice(tid)
        latent = cute.local_tile(self.sK, (64, D_V), (0, 0, None))
        rK = thr_rs.make_fragment_B(thr_rs.partition_B(latent))
        rKrope = thr_ss.make_fragment_B(thr_ss.partition_B(self.sS))
        rQ = cute.make_rmem_tensor(thr_rs.partition_shape_A((64, 16 * self.q_steps)), dt)
        rQtail = thr_ss.make_fragment_A(thr_ss.partition_A(self.sQtail))
        rQrope = thr_ss.make_fragment_A(thr_ss.partition_A(self.sQrope))
        load = cute.make_copy_atom(cute.nvgpu.warp.LdMatrix8x8x16bOp(False, 4), dt)
        store = cute.make_copy_atom(cute.nvgpu.warp.StMatrix8x8x16bOp(False, 4), dt)
        thr_load = cute.make_tiled_copy_A(load, mma_rs).get_slice(tid)
        thr_save = cute.make_tiled_copy_A(store, mma_rs).get_slice(tid)
        tLsK, tLsS = thr_load.partition_S(latent), thr_load.partition_S(self.sS)
        row_max = cute.make_rmem_tensor((2,), Float32)
        row_sum = cute.make_rmem_tensor((2,), Float32)
        it, parity = Int32(0), Int32(1)
        w, t = schedule.seek(a, first, Int32(0), self.step)
        while w < a.num_parts:
            b, _, k = schedule.tile_place(a, t)
            length = schedule.length_of(a, b)
            block = k * self.cluster
            pages = schedule.pages_of(schedule.last_token_limit(a, length, block + self.cluster - 1))
            lo, hi = schedule.piece_pages(a, w, t, pages)
            n = hi - lo
            left = schedule.first_token_limit(a, length, block + self.rank) - lo * PAGE  # tokens from here on that the block's first row attends
            slot, phase = self.slot_phase(it)
            cute.arch.mbarrier_wait(bars + self.FULL + slot, phase)
            rQrope_load = cute.make_rmem_tensor(thr_rs.partition_shape_A((64, 64)), dt)
            cute.copy(thr_load, tLsS[None, None, None, SLICES * slot + ROPE], thr_load.retile(rQrope_load))
            cute.copy(thr_save, thr_save.retile(rQrope_load), thr_save.partition_D(self.sQrope))
            for i in cutlass.range_constexpr(self.q_tail):
                step = cute.make_rmem_tensor(thr_rs.partition_shape_A((64, 16)), dt)
                cute.copy(thr_load, tLsK[None, None, self.q_steps + i, slot], thr_load.retile(step)[None, None, 0])
                cute.copy(thr_save, thr_save.retile(step)[None, None, 0], thr_save.partition_D(self.sQtail)[None, None, i])
            for i in cutlass.range_constexpr(self.q_steps):
                cute.copy(thr_load, tLsK[None, None, i, slot], thr_load.retile(rQ)[None, None, i])
            cute.arch.fence_proxy("async.shared", space="cta")
            cute.arch.barrier(barrier_id=NamedBarrier.QK, number_of_threads=128)
            self.release(bars + self.EMPTY + 2 * slot)
            self.release(bars + self.EMPTY + 2 * slot + 1)
            it += 1
            row_max.fill(-Float32.inf)
            row_sum.fill(0.0)
            while n > 0:
                slot, phase = self.slot_phase(it)
                rS = cute.make_rmem_tensor(thr_rs.partition_shape_C((64, PAGE)), Float32)
                # When the page is not there yet the tensor cores are free: the page before goes to PV at once.
                early = cute.arch.mbarrier_try_wait(bars + self.FULL + slot, phase) == False  # noqa: E712 - a run-time value
                if early:
                    self.hand_over(it - 1)
                    if warp == 0:
                        self.arrive(bars + self.QKDONE + (it - 1) % self.slots)
                    cute.arch.mbarrier_wait(bars + self.FULL + slot, phase)
                warpgroup.fence()
                # The warps stall in the issue of a long chain, so: four k-steps, the hand-over of the page before, then the rest. The last
                # `lead` + 4 k-steps are a group of their own, so that PV is told to go a little before S is done.
                sB = rK[None, None, None, slot]
                self.gemm(mma_rs, rS, rQ, sB, (0, 4), True)
                if not early:
                    self.hand_over(it - 1)
                cute.arch.mbarrier_wait(bars + self.LEMPTY, parity)  # the last tile's 1 / row sum was read (long ago)
                self.gemm(mma_rs, rS, rQ, sB, (4, self.q_steps - self.lead), False)
                warpgroup.commit_group()
                self.gemm(mma_rs, rS, rQ, sB, (self.q_steps - self.lead, self.q_steps), False)
                self.gemm(mma_ss, rS, rQtail, sB, (0, self.q_tail), False, self.q_steps)
                self.gemm(mma_ss, rS, rQrope, rKrope[None, None, None, SLICES * slot + ROPE], (0, 4), False)
                warpgroup.commit_group()
                warpgroup.wait_group(1)
                if (warp == 0) and not early:
                    self.arrive(bars + self.QKDONE + (it - 1) % self.slots)
                warpgroup.wait_group(0)
                n -= 1
                tn = self.thread_now()
                s_rows = accumulator_rows(rS)
                if left < PAGE:
                    self.mask(s_rows, tn, left)
                left -= PAGE
                scale = self.softmax(s_rows, row_max, row_sum)
                rP = cute.make_rmem_tensor_like(rS, dt)
                rP.store(rS.load().to(dt))
                # every warp must be past its S before P overwrites the RoPE slice
                cute.arch.barrier(barrier_id=NamedBarrier.QK, number_of_threads=128)
                thr_p = cute.make_tiled_copy_C(store, mma_rs).get_slice(tn)
                cute.copy(thr_p, thr_p.retile(rP), thr_p.partition_D(self.sS)[None, None, None, SLICES * slot + ROPE])
                if tn % 4 == 0:
                    row = (tn // 32) * 16 + (tn % 32) // 4
                    sScale[row, slot] = scale[0]
                    sScale[row + 8, slot] = scale[1]
                it += 1
            self.hand_over(it - 1)
            if warp == 0:
                self.arrive(bars + self.QKDONE + (it - 1) % self.slots)
            # 1 / row sum travels in the scale array of the next item's slot (a Q item, which needs none): its last page must be done
            slot, phase = self.slot_phase(it)
            cute.arch.mbarrier_wait(bars + self.LEMPTY, parity)
            cute.arch.mbarrier_wait(bars + self.EMPTY + 2 * slot, phase ^ 1)
            cute.arch.mbarrier_wait(bars + self.EMPTY + 2 * slot + 1, phase ^ 1)
            self.finish_rows(w, t, slot, row_max, row_sum)
            cute.arch.sync_warp()
            self.arrive(bars + self.LFULL)
            parity ^= 1
            w, t = schedule.seek(a, w, t + 1, self.step)

    @cute.jit
    def mask(self, s_rows: cute.Tensor, tn, left):
        """Logits of tokens that a row does not attend become -inf."""
        cute.arch.sync_warp()
        for r in cutlass.range_constexpr(2):
            row = (tn // 32) * 16 + (tn % 32) // 4 + 8 * r
            end = left + self.a.causal * (row // self.a.block_heads) - (tn % 4) * 2
            for c in cutlass.range_constexpr(cute.size(s_rows, mode=[1])):
                s_rows[r, c] = -Float32.inf if (c // 2) * 8 + c % 2 >= end else s_rows[r, c]

    @cute.jit
    def softmax(self, s_rows: cute.Tensor, row_max: cute.Tensor, row_sum: cute.Tensor):
        """Logits -> unnormalised probabilities in place; returns the factors for what was accumulated before."""
        scale_log2 = self.a.scale_log2
        scale = cute.make_rmem_tensor((2,), Float32)
        for r in cutlass.range_constexpr(2):
            old = row_max[r]
            new = cute.arch.fmax(tree_max([s_rows[r, c] for c in range(16)]), old)
            new = cute.arch.fmax(new, cute.arch.shuffle_sync_bfly(new, 1))
            new = cute.arch.fmax(new, cute.arch.shuffle_sync_bfly(new, 2))
            new = old if (new - old) * scale_log2 <= LAZY_LOG2 else new
            row_max[r] = new
            shift = 0.0 if new == -Float32.inf else new * scale_log2
            scale[r] = cute.math.exp2(old * scale_log2 - shift, fastmath=True)
            p = cute.math.exp2(s_rows[r, None].load() * scale_log2 - shift, fastmath=True)
            s_rows[r, None].store(p)
            row_sum[r] = row_sum[r] * scale[r] + p.reduce(cute.ReductionOp.ADD, Float32(0.0), 0)
        return scale

    @cute.jit
    def finish_rows(self, w, t, slot, row_max: cute.Tensor, row_sum: cute.Tensor):
        """1 / row sum for PV, and the log-sum-exp of the rows."""
        a, sScale, wanted = self.a, self.sScale, self.a.lse.toint() != 0
        tn, t = self.thread_now(), self.opaque(t)
        b, head, k = schedule.tile_place(a, t)
        partial = schedule.partial_slot(a, self.opaque(w), t)
        for r in cutlass.range_constexpr(2):
            total = row_sum[r]
            total = total + cute.arch.shuffle_sync_bfly(total, 1)
            total = total + cute.arch.shuffle_sync_bfly(total, 2)
            if tn % 4 == 0:
                row = (tn // 32) * 16 + (tn % 32) // 4 + 8 * r
                empty = total == 0.0
                sScale[row, slot] = 0.0 if empty else cute.arch.rcp_approx(total)
                lse2 = row_max[r] * a.scale_log2 + cute.math.log2(total)
                if partial >= 0:
                    where = Int64(partial) * (64 * self.cluster) + self.rank * 64 + row
                    dst = cute.make_tensor(a.partial_lse + where, cute.make_layout(1))
                    dst[0] = -Float32.inf if empty else lse2
                elif wanted:
                    valid, token, h = schedule.row_place(a, k * self.cluster + self.rank, row)
                    if valid:
                        where = schedule.lse_offset(a, b, token, head * a.group + h)
                        dst = cute.make_tensor(a.lse + where, cute.make_layout(1))
                        dst[0] = Float32.inf if empty else lse2 * LN2

    # ---- PV and loads ----------------------------------------------------------------------------------------------

    @cute.jit
    def write_cursor(self, half, w, t, page, end, b, head):
        with cute.arch.elect_one():
            c = self.sCursor
            c[PART, half], c[TILE, half], c[PAGE_INDEX, half] = w, t, page
            c[PAGE_END, half], c[REQUEST, half], c[HEAD, half] = end, b, head
        cute.arch.sync_warp()

    @cute.jit
    def fetch(self, half, item, page, tma_q, tQg, tQs, tma_kv, tKg, tKs):
        """One warp: when the slot of the item is free in the whole cluster, start its copies; step the cursor. `page` is the item's page
        number, read ahead; returns that of the next item."""
        a, bars, c = self.a, self.bars, self.sCursor
        w, t, index, end, b, head = (c[i, half] for i in range(CURSOR))
        cute.arch.sync_warp()
        if w < a.num_parts:
            slot, phase = self.slot_phase(item)
            bar = bars + self.FULL + slot
            dst = SLICES * slot + 4 * half
            cute.arch.mbarrier_wait(bars + self.EMPTY + 2 * slot, phase ^ 1)
            if half == 1:
                cute.arch.mbarrier_wait(bars + self.EMPTY + 2 * slot + 1, phase ^ 1)
            if index == Q_ITEM:
                page = self.page_number(b, schedule.first_page(a, w, t))
                _, _, k = schedule.tile_place(a, t)
                block = k * self.cluster + self.rank
                chunk, token = block % a.head_chunks, (block // a.head_chunks) * a.block_tokens
                with cute.arch.elect_one():
                    cute.arch.mbarrier_arrive_and_expect_tx(bar, a.block_heads * a.block_tokens * 64 * 2 * (4 + half))
                for j in cutlass.range_constexpr(4):
                    cute.copy(tma_q, tQg[None, chunk, 4 * half + j, token, head, b], tQs[None, dst + j], tma_bar_ptr=bar)
                if half == 1:
                    cute.copy(tma_q, tQg[None, chunk, ROPE, token, head, b], tQs[None, dst + 4], tma_bar_ptr=bar)
                length = schedule.length_of(a, b)
                pages = schedule.pages_of(schedule.last_token_limit(a, length, (k + 1) * self.cluster - 1))
                index, end = schedule.piece_pages(a, w, t, pages)
            else:
                with cute.arch.elect_one():
                    cute.arch.mbarrier_arrive_and_expect_tx(bar, PAGE * 64 * 2 * (4 + half))
                for j in cutlass.range_constexpr(4):
                    self.copy_kv(tma_kv, tKg[None, 0, 4 * half + j, head, page], tKs[None, dst + j], bar)
                if half == 1:
                    self.copy_kv(tma_kv, tKg[None, 0, ROPE, head, page], tKs[None, dst + 4], bar)
                index += 1
                page = self.page_number(b, index)
            if index >= end:
                w, t = schedule.seek(a, w, t + 1, self.step)
                b, head, _ = schedule.tile_place(a, t)
                index = Int32(Q_ITEM)
            self.write_cursor(half, w, t, index, end, b, head)
        return page

    @cute.jit
    def page_number(self, b, index):
        """Entry of the block table, read ahead: behind the last page of a tile it is any entry, and not used."""
        a = self.a
        return cute.make_tensor(a.block_table + Int64(b) * a.block_table_stride, cute.make_layout(2**30))[min(index, a.max_blocks - 1)]

    @cute.jit
    def copy_kv(self, tma, src, dst, bar):
        """A slice of a page. Without a cluster nobody else wants the page soon (1 % faster); with multicast the hint cost 4-10 %."""
        if const_expr(self.cluster > 1):
            cute.copy(tma, src, dst, tma_bar_ptr=bar, mcast_mask=Int16((1 << self.cluster) - 1))
        else:
            cute.copy(tma, src, dst, tma_bar_ptr=bar, cache_policy=Int64(EVICT_FIRST))

    @cute.jit
    def pv(self, first, half, warp, tma_q, mQ, tma_kv, mKV):
        a, bars, dt = self.a, self.bars, self.dtype
        flat = cute.group_modes(self.sS, 0, 2)
        gQ = cute.local_tile(mQ, (64, 64), (None, None, None, None, None))
        tQs, tQg = cpasync.tma_partition(tma_q, 0, cute.make_layout(1), flat, cute.group_modes(gQ, 0, 2))
        gKV = cute.local_tile(mKV, (64, 64), (None, None, None, None))
        tKs, tKg = cpasync.tma_partition(tma_kv, self.rank, cute.make_layout(self.cluster), flat, cute.group_modes(gKV, 0, 2))
        copies = (tma_q, tQg, tQs, tma_kv, tKg, tKs)
        lead = (warp % 4) == 0
        w, t = schedule.seek(a, first, Int32(0), self.step)
        page = Int32(0)
        if lead:
            b, head, _ = schedule.tile_place(a, t)
            self.write_cursor(half, w, t, Int32(Q_ITEM), Int32(0), b, head)
            for j in cutlass.range(self.slots, unroll=1):
                page = self.fetch(half, j, page, *copies)
        K, MN = OperandMajorMode.K, OperandMajorMode.MN
        mma = sm90.make_trivial_tiled_mma(dt, dt, K, MN, Float32, (1, 1, 1), (64, 256))
        tid, _, _ = cute.arch.thread_idx()
        tid %= 128
        thr = mma.get_slice(tid)
        rV = thr.make_fragment_B(thr.partition_B(cute.local_tile(transposed(self.sK), (256, 64), (None, 0, None))))  # (MMA, 1, 4, halves, slots)
        rP = thr.make_fragment_A(thr.partition_A(self.sS))
        rO = cute.make_rmem_tensor(thr.partition_shape_C((64, 256)), Float32)
        o_rows = accumulator_rows(rO)
        row = (tid // 32) * 16 + (tid % 32) // 4
        it, parity = Int32(0), Int32(0)
        while w < a.num_parts:
            b, _, k = schedule.tile_place(a, t)
            length = schedule.length_of(a, b)
            block = k * self.cluster
            pages = schedule.pages_of(schedule.last_token_limit(a, length, block + self.cluster - 1))
            lo, hi = schedule.piece_pages(a, w, t, pages)
            n = hi - lo
            left = schedule.last_token_limit(a, length, block + self.rank) - lo * PAGE
            if lead:  # into the slot of Q
                page = self.fetch(half, it + self.slots, page, *copies)
            it += 1
            rO.fill(0.0)
            while n > 0:
                slot, phase = self.slot_phase(it)
                cute.arch.mbarrier_wait(bars + self.PFULL + slot, phase)
                c0, c1 = self.sScale[row, slot], self.sScale[row + 8, slot]
                if cute.arch.vote_any_sync(c0 * c1 != 1.0):
                    o_rows[0, None].store(o_rows[0, None].load() * c0)
                    o_rows[1, None].store(o_rows[1, None].load() * c1)
                cute.arch.mbarrier_wait(bars + self.FULL + slot, phase)
                if left < PAGE:
                    self.clear_dead_rows(half, slot, left)
                left -= PAGE
                n -= 1
                cute.arch.mbarrier_wait(bars + self.QKDONE + slot, phase)
                warpgroup.fence()
                self.gemm(mma, rO, rP[None, None, None, SLICES * slot + ROPE], rV[None, None, None, half, slot], (0, 4), False)
                warpgroup.commit_group()
                warpgroup.wait_group(0)
                self.release(bars + self.EMPTY + 2 * slot + half)
                if lead:
                    page = self.fetch(half, it + self.slots, page, *copies)
                it += 1
            cute.arch.mbarrier_wait(bars + self.LFULL, parity)
            parity ^= 1
            slot, _ = self.slot_phase(it)
            i0, i1 = self.sScale[row, slot], self.sScale[row + 8, slot]
            cute.arch.sync_warp()
            self.arrive(bars + self.LEMPTY)
            self.store_rows(w, t, half, o_rows, i0, i1)
            w, t = schedule.seek(a, w, t + 1, self.step)

    @cute.jit
    def clear_dead_rows(self, half, slot, left):
        """Zero this half of the V rows that no row of the block attends: they may hold NaN, and 0 * NaN is NaN. Each warp clears every
        fourth row, a lane one chunk of one of the four slices."""
        tn = self.thread_now()
        zero = cute.make_rmem_tensor((4,), Int32)
        zero.fill(0)
        for dead in cutlass.range(max(left, 0) + tn // 32, PAGE, 4, unroll=1):
            cute.autovec_copy(zero, self.sWords[None, tn % 8, dead, SLICES * slot + 4 * half + (tn % 32) // 8])
        cute.arch.fence_proxy("async.shared", space="cta")
        cute.arch.barrier(barrier_id=NamedBarrier.PV_LEFT + half, number_of_threads=128)

    @cute.jit
    def store_rows(self, w, t, half, o_rows: cute.Tensor, i0, i1):
        """Normalised rows to the output, or to their partial slot."""
        a = self.a
        tn, t = self.thread_now(), self.opaque(t)
        quad = tn % 4
        partial = schedule.partial_slot(a, self.opaque(w), t)
        b, head, k = schedule.tile_place(a, t)
        for r in cutlass.range_constexpr(2):
            row = (tn // 32) * 16 + (tn % 32) // 4 + 8 * r
            inv = i0 if r == 0 else i1
            valid, token, h = schedule.row_place(a, k * self.cluster + self.rank, row)
            if (partial >= 0) and valid:
                where = ((Int64(partial) * self.cluster + self.rank) * 64 + row) * D_V + half * 256
                dst = cute.make_tensor(a.partial + cute.assume(where, divby=4), cute.make_layout(256))
                for j in cutlass.range_constexpr(32):
                    pair = cute.make_rmem_tensor((2,), Float32)
                    pair[0] = o_rows[r, 2 * j] * inv
                    pair[1] = o_rows[r, 2 * j + 1] * inv
                    cute.autovec_copy(pair, cute.local_tile(dst, (2,), (4 * j + quad,)))
            if partial < 0:
                where = schedule.out_offset(a, b, token, head * a.group + h) + half * 256
                dst = cute.make_tensor(cute.recast_ptr(a.out + cute.assume(where, divby=8), dtype=Int32), cute.make_layout(128))
                for j in cutlass.range_constexpr(8):
                    words = self.transpose_quad([o_rows[r, 8 * j + c] * inv for c in range(8)], quad)
                    if valid:
                        cute.autovec_copy(words, cute.local_tile(dst, (4,), (4 * j + quad,)))

    def transpose_quad(self, values, quad):
        """Four lanes hold pairs of 8 neighbouring columns each: exchange them so that a lane has 8 columns, for 16-byte stores."""
        packed = cute.make_rmem_tensor((8,), self.dtype)
        full = cute.make_rmem_tensor((8,), Float32)
        for c in range(8):
            full[c] = values[c]
        packed.store(full.load().to(self.dtype))
        w = cute.recast_tensor(packed, Int32)
        odd, high = (quad & 1) == 1, (quad & 2) == 2
        return self.exchange(w, odd, high)

    @cute.jit
    def exchange(self, w: cute.Tensor, odd, high):
        y0 = cute.arch.shuffle_sync_bfly(w[0] if odd else w[1], 1)
        y1 = cute.arch.shuffle_sync_bfly(w[2] if odd else w[3], 1)
        a0 = y0 if odd else w[0]
        a1 = w[1] if odd else y0
        b0 = y1 if odd else w[2]
        b1 = w[3] if odd else y1
        z0 = cute.arch.shuffle_sync_bfly(a0 if high else b0, 2)
        z1 = cute.arch.shuffle_sync_bfly(a1 if high else b1, 2)
        w[0] = z0 if high else a0
        w[1] = z1 if high else a1
        w[2] = b0 if high else z0
        w[3] = b1 if high else z1
        return w
