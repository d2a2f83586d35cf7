"""The PV warpgroups where rows are gathered: all their eight warps are loaders too (gather.py)."""

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32
from cutlass.cute.nvgpu import warpgroup

from dsl_kernels.core.fragments import row_of
from dsl_kernels.core.schedule_params import UNIT
from dsl_kernels.core.threads import opaque, thread_now

from . import work
from .gather import PIECE_DONE, piece_of
from .loader import Q_ITEM
from .pv import PV
from .rows import see_rows


class GatherPV(PV):
    @cute.jit
    def run(self, half, warp):
        kernel, sWork = self.kernel, self.smem.sWork
        self.publish_first(half, warp)
        self.make_fragments()
        at, unit, index = Int32(0), Int32(Q_ITEM), Int32(0)  # the loader's cursor: gather.py
        it, more = Int32(0), Boolean(True)  # items
        while more:
            # Into the slot of the last unit, of the first piece all that there is room for; then into that of Q, when
            # QK has taken it, for which nothing may be pending.
            for item in cutlass.range(it if it == 0 else it + (kernel.slots - 1), it + kernel.slots, unroll=1):
                at, unit, index = self.loader.fetch(half, warp, item, at, unit, index)
            at = self.loader.settle(half, warp, at, it)
            at, unit, index = self.loader.fetch(half, warp, it + kernel.slots, at, unit, index)
            record = self.bars.wait_for_work(piece_of(at))
            n = sWork[work.UNITS, record]
            more = n > 0
            if more:
                it += 1  # nothing to do for Q
                self.rO.fill(0.0)
                while n > 0:
                    self.start_unit(half, it, self.bars.slot_phase(it), row_of(thread_now()), self.remaining(at, n))
                    # beside the product
                    at = self.loader.settle(half, warp, at, it)
                    aimed = self.loader.aim_ahead(warp, at, unit, index)
                    warpgroup.wait_group(0)
                    n -= 1
                    if n > 0:
                        slot, _ = self.bars.slot_phase(it)
                        self.bars.release(slot, half)
                        at, unit, index = self.loader.fetch_aimed(half, warp, it + kernel.slots, at, unit, index, aimed)
                    it += 1
                record, _ = self.bars.record_phase(piece_of(at))
                inverse = self.take_sums(it, row_of(thread_now()))
                cute.arch.sync_warp()
                self.bars.arrive(self.bars.sum_empty())
                self.store_output(half, it, record, inverse)
                at += PIECE_DONE

    @cute.jit
    def publish_first(self, half, warp):
        """The first record, by the warp beside the reader."""
        if (half == 1) and (warp % 4 == 1):
            self.loader.reader.publish_first()

    def see_rows(self):
        see_rows(self.kernel)

    @cute.jit
    def remaining(self, at, n):
        """Tokens that the block's last query token attends from the begin of a unit on, behind which n - 1 follow."""
        remaining = Int32(work.HIDDEN_UNITS * UNIT)  # or more
        if (n <= work.HIDDEN_UNITS) or (self.a.window > 0):
            record, _ = self.bars.record_phase(opaque(piece_of(at)))
            sWork = self.smem.sWork
            begin = sWork[work.FIRST_UNIT, record] + sWork[work.UNITS, record] - n
            remaining = work.last_limit(self.kernel, record) - begin * UNIT
        return remaining
