"""QK of sparse_decode: what differs from dense_decode is which logits are hidden."""

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, const_expr

from dsl_kernels.core.threads import thread_now
from dsl_kernels.dense_decode.gather_qk import GatherQK

from .selection import valid_words


class SparseQK(GatherQK):
    def record_of(self, piece, _record):
        """Worked out anew: nothing else needs it, so it takes no register beside the products."""
        record, _ = self.bars.record_phase(piece)
        return record

    def first_remaining(self, _record):
        """The bits of a unit say which rows are attended."""
        return Int32(0)

    @cute.jit
    def say_came(self, slot, warp):
        """To the other CTA of a pair: its copies have come with a unit."""
        if const_expr(self.kernel.cluster > 1):
            if warp == 0:
                with cute.arch.elect_one():
                    cute.arch.mbarrier_arrive(self.bars.free(slot), 1 - self.kernel.rank)

    @cute.jit
    def attended(self, slot):
        """A bit for each row of a unit, in two words."""
        words, thread = valid_words(self.kernel), thread_now()
        low, high = Int32(0), Int32(0)
        if (thread & 3) == 0:  # the lane that says for its quad that this has been read
            low, high = words[0, slot], words[1, slot]
        return cute.arch.shuffle_sync(low, thread & 28), cute.arch.shuffle_sync(high, thread & 28)

    @cute.jit
    def hide(self, s_rows: cute.Tensor, thread, attended: tuple, _record, _remaining):
        """Logits of rows that are not attended become -inf, of all heads alike."""
        low, high = attended
        if (low & high) != -1:
            shift = (thread & 3) * 2
            low, high = low >> shift, high >> shift
            for c in cutlass.range_constexpr(cute.size(s_rows, mode=[1])):
                bit = (c // 2) * 8 + c % 2
                word = low if bit < 32 else high
                hidden = (word & Int32(1 << (bit % 32))) == 0
                for r in cutlass.range_constexpr(2):
                    s_rows[r, c] = -Float32.inf if hidden else s_rows[r, c]
