"""Shared memory of dense_decode: what lies there, and the tensors by which it is seen. config.py knows its size."""

import cutlass
import cutlass.cute as cute
from cutlass import Float8E4M3FN, Float32, Int32, Int64, const_expr
from cutlass.cute.nvgpu import warpgroup

from dsl_kernels.core.schedule_params import UNIT

from . import barrier_table
from .config import CURSOR, RECORD


class SharedMemory:
    """Of a kernel; made in two steps, since the launch needs the size and only the kernel has addresses."""

    def __init__(self, kernel):
        self.dtype, self.slices, self.slots = kernel.dtype, kernel.slices, kernel.slots
        self.last_of_slot, self.turns = kernel.last, kernel.turns
        self.number = kernel.slices * kernel.slots + 2 * kernel.turns
        self.rope, self.q_tail, self.half = kernel.rope and not kernel.fp8_products, kernel.q_tail, kernel.half
        self.codes, self.copy_bytes = kernel.fp8_products, 64 * kernel.half
        produced = kernel.regs_producer > 0
        self.cursors, self.told_words = not kernel.boxed and not produced, 2 * kernel.slots * produced
        records = barrier_table.records(kernel.slots)

        @cute.struct
        class Storage:
            barriers: cute.struct.MemRange[Int64, barrier_table.total(kernel.slots, kernel.bars.table)]
            told: cute.struct.MemRange[Int32, self.told_words]
            work: cute.struct.Align[cute.struct.MemRange[Int32, RECORD * records], 16]
            cursors: cute.struct.MemRange[Int32, 2 * CURSOR * self.cursors]
            scale: cute.struct.MemRange[Float32, 64 * kernel.slots]
            kv: cute.struct.Align[cute.struct.MemRange[kernel.dtype, UNIT * 64 * self.number], 1024]
            copies: cute.struct.Align[cute.struct.MemRange[kernel.dtype, 2 * self.copy_bytes * self.codes], 1024]
            q_rope: cute.struct.Align[cute.struct.MemRange[kernel.dtype, 64 * 64 * self.rope], 1024]
            q_tail: cute.struct.Align[cute.struct.MemRange[kernel.dtype, 64 * 16 * kernel.q_tail], 1024]

        self.storage = Storage

    def allocate(self):
        """Makes the tensors; returns where the barriers lie."""
        st = cutlass.memory.SmemAllocator().allocate(self.storage)
        swizzle = warpgroup.SmemLayoutAtomKind
        atom = warpgroup.make_smem_layout_atom(swizzle.K_SW128, self.dtype)
        slot = cute.tile_to_shape(atom, (UNIT, 64 * self.slices, self.slots), order=(0, 1, 2))
        slices = cute.tile_to_shape(atom, (64, 64, self.number), order=(0, 1, 2))
        rope = cute.tile_to_shape(atom, (64, 64), order=(0, 1))
        self.sWork = st.work.get_tensor(cute.make_layout((RECORD, barrier_table.records(self.slots))))  # work.py
        # a bit for each row of a slot's unit, where it is told which are attended; in place of cursors, if there are
        self.told = (st.cursors if const_expr(self.told_words == 0) else st.told).data_ptr()
        if const_expr(self.cursors):
            self.sCursor = st.cursors.get_tensor(cute.make_layout((CURSOR, 2)))  # of the left and of the right loader
        self.sScale = st.scale.get_tensor(cute.make_layout((64, self.slots)))
        self.kv = st.kv.data_ptr()
        self.sK = st.kv.get_tensor(slot.outer, swizzle=slot.inner)  # (64, 64 * slices, slots)
        # the same bytes as (64, 64, slices), with those beside the slots
        self.sS = st.kv.get_tensor(slices.outer, swizzle=slices.inner)
        self.sPlain = cute.make_tensor(st.kv.data_ptr(), slices.outer)  # for addresses: without the swizzle
        # the same bytes, unswizzled: a row of a slice is 8 chunks of 16 bytes
        chunks = cute.make_layout((4, 8, 64, self.number), stride=(1, 4, 32, 2048))
        self.sWords = cute.make_tensor(cute.recast_ptr(st.kv.data_ptr(), dtype=Int32), chunks)
        if const_expr(self.codes):
            self.copies = st.copies.data_ptr()
            self.see_codes(st.kv, st.copies)
        if const_expr(self.rope):
            self.sQrope = st.q_rope.get_tensor(rope.outer, swizzle=rope.inner)
        if const_expr(self.q_tail > 0):
            atom = warpgroup.make_smem_layout_atom(swizzle.K_SW32, self.dtype)
            tail = cute.tile_to_shape(atom, (64, 16 * self.q_tail), order=(0, 1))
            self.sQtail = st.q_tail.get_tensor(tail.outer, swizzle=tail.inner)
        return st.barriers.data_ptr()

    def see_codes(self, kv, copies):
        """The slots as 8-bit products take them: slices of 64 rows of 128 codes, and the copies of halves of V."""
        swizzle, dtype = warpgroup.SmemLayoutAtomKind, Float8E4M3FN
        atom, number = warpgroup.make_smem_layout_atom(swizzle.K_SW128, dtype), self.slices * self.slots
        codes = cute.tile_to_shape(atom, (64, 128, number), order=(0, 1, 2))
        self.sCodes = kv.get_tensor(codes.outer, swizzle=codes.inner, dtype=dtype)
        atom = warpgroup.make_smem_layout_atom(swizzle.K_SW64, dtype)
        turned = cute.tile_to_shape(atom, (self.half, UNIT, 4), order=(0, 1, 2))
        self.sTurned = copies.get_tensor(turned.outer, swizzle=turned.inner, dtype=dtype)

    def copy_of(self, half, item):
        """Number of the copy of half of a unit's V."""
        return 2 * half + item % 2

    def copy_start(self, half, item):
        """Its address."""
        return self.copies + cute.assume(self.copy_bytes // 2 * self.copy_of(half, item), divby=2048)

    def last(self, item, slot):
        """Number of the slice, among all, of an item's RoPE part and P. slot: the item's."""
        if const_expr(self.turns):
            return self.slices * self.slots + item % 2
        return self.slices * slot + self.last_of_slot

    def last_start(self, item, slot):
        """Its address."""
        return self.kv + cute.assume(64 * 64 * self.last(item, slot), divby=4096)

    def slice_start(self, slot, which):
        """Address of a slice: 64 rows of 128 bytes."""
        return self.kv + cute.assume(64 * 64 * (self.slices * slot + which), divby=4096)
