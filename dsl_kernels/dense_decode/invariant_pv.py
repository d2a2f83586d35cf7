"""The PV warpgroups of batch-invariant calls: pieces of a tile, one after another with the same Q, folded on the way.
Of a piece that the part goes on from, the last unit is given back before the rows are stored, for the next loads.

What is counted shares registers, or is read again where it is needed: carries take what there are.
"""

import cutlass.cute as cute
from cutlass import Float32, Int32, const_expr

from dsl_kernels.core.fragments import row_of
from dsl_kernels.core.schedule_params import UNIT
from dsl_kernels.core.threads import opaque, thread_now

from . import invariant, work
from .carries import final_factors, fold_rows, store_lses, store_slot
from .config import LOG_AHEAD
from .pv import PV

OVER = -1  # item: there is no more work
# Pieces that are done, and in the low LOG_AHEAD bits how many pieces the loader is ahead, in one register.
LOADS_NOTHING = (1 << LOG_AHEAD) - 1


def done(pieces):
    return pieces >> LOG_AHEAD


def loads(pieces):
    return (pieces & LOADS_NOTHING) != LOADS_NOTHING


def loaded(pieces):
    """Number of the piece that the loader is at."""
    return done(pieces) + (pieces & LOADS_NOTHING)


def ahead_by(pieces, its_piece):
    return pieces - (pieces & LOADS_NOTHING) + its_piece - done(pieces)


class InvariantPV(PV):
    @cute.jit
    def run(self, half, warp):
        """As PV.run."""
        kernel, sWork = self.kernel, self.smem.sWork
        # of what is fetched next: item, where it does not follow from `it`, and number of its page
        item, page, pieces = Int32(0), Int32(0), Int32(LOADS_NOTHING)
        if (warp % 4) == 0:
            pieces = Int32(0)
            self.loader.start(half)
        self.publish_first(half, warp)
        self.make_fragments()
        it = Int32(0)  # Q, or the last unit of the piece before where that has the same
        while it != OVER:
            if loads(pieces):  # all that there is room for
                item, its_piece, page = self.loader.fetch_all(half, item, it + kernel.slots + 1, loaded(pieces), page)
                pieces = ahead_by(pieces, its_piece)
            record = self.bars.wait_for_work(done(pieces))
            n = sWork[work.UNITS, record]
            if n == 0:
                it = Int32(OVER)
            else:
                it += 1  # nothing to do for Q
                self.rO.fill(0.0)
                end = it + n
                while it < end:
                    remaining = Int32(work.HIDDEN_UNITS * UNIT)  # or more
                    if end - it <= work.HIDDEN_UNITS:
                        record, _ = self.bars.record_phase(opaque(done(pieces)))
                        limit = work.last_limit(kernel, record)
                        begin = sWork[work.FIRST_UNIT, record] + sWork[work.UNITS, record] - (end - it)
                        remaining = limit - begin * UNIT
                    tid, _, _ = cute.arch.thread_idx()
                    self.add_unit(half, it, row_of(tid % 128), remaining)
                    it += 1
                    if it < end:
                        self.give_back(half, it)
                        page, pieces = self.fetch_behind(half, it, page, pieces)
                destination = self.destination(pieces)
                lse = self.fold_piece(half, it, destination, done(pieces))
                item = it + (kernel.slots - 1)
                if goes_on(destination):
                    cute.arch.fence_proxy("async.shared", space="cta")
                    self.give_back(half, it)
                    if const_expr(not kernel.any_page):  # or there are too few registers
                        page, pieces = self.fetch_behind(half, it, page, pieces)
                        item += 1
                    store_slot(kernel, destination, half, self.rO, lse)
                    it -= 1
                elif destination >= 0:
                    store_slot(kernel, destination, half, self.rO, lse)
                    cute.arch.fence_proxy("async.shared", space="cta")
                    self.give_back(half, it)
                else:
                    self.end_tile(half, it, pieces, lse)
                pieces += (1 << LOG_AHEAD) - (1 if loads(pieces) else 0)

    def give_back(self, half, it):
        """The unit before `it`."""
        slot, _ = self.bars.slot_phase(it + (self.kernel.slots - 1))
        self.bars.release(slot, half)

    @cute.jit
    def fetch_behind(self, half, it, page, pieces):
        """Into the slot of the unit before `it`; returns what is fetched next."""
        if loads(pieces):
            its_piece, page = self.loader.fetch(half, it + (self.kernel.slots - 1), loaded(pieces), page)
            pieces = ahead_by(pieces, its_piece)
        return page, pieces

    @cute.jit
    def fold_piece(self, half, it, destination, piece):
        """The rows of piece number `piece` are folded with those that are carried, by way of this half of the last
        unit's slot. `it`: the item behind. Returns the rows' log-sum-exps.
        """
        sScale = self.smem.sScale
        self.bars.hear_sums(piece)
        row = row_of(thread_now())
        slot, _ = self.bars.slot_phase(it)
        ahead, _ = self.bars.slot_phase(it + 1)
        inverse = sScale[row, slot], sScale[row + 8, slot]
        lse = cute.make_rmem_tensor((1,), Float32)
        lse[0] = sScale[row + 8 * (thread_now() & 1), ahead]
        cute.arch.sync_warp()
        cute.arch.mbarrier_arrive(self.bars.sum_empty())
        via, _ = self.bars.slot_phase(it + (self.kernel.slots - 1))
        stage = self.smem.slice_start(via, self.kernel.half_slices * opaque(half))
        fold_rows(self.kernel, destination, half, self.rO, inverse, lse, stage)
        return lse

    @cute.jit
    def end_tile(self, half, it, pieces, lse: cute.Tensor):
        """The rows are the output's."""
        kernel = self.kernel
        record, _ = self.bars.record_phase(opaque(done(pieces)))
        if half == 0:
            store_lses(kernel, record, lse)
        self.store_output(half, it, record, final_factors(kernel, record, lse))

    @cute.jit
    def destination(self, pieces):
        """Of the piece under way, where the record is still its own."""
        record, _ = self.bars.record_phase(opaque(done(pieces)))
        return self.smem.sWork[work.SLOT, record]


def goes_on(destination):
    """Whether the part goes on with the tile; asked on the spot."""
    return invariant.has(opaque(destination), invariant.MORE)
