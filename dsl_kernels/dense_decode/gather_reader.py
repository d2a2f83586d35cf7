"""The reader where rows are gathered: it writes the record of a piece when it fetches the piece's Q."""

import cutlass.cute as cute
from cutlass import Int32, min

from dsl_kernels.core import schedule
from dsl_kernels.core.threads import behind

from . import work


class GatherReader(work.Reader):
    # Parameters of which what follows, for the next record alone, would be worked out in advance and kept in registers.
    NOT_AHEAD = (
        *("num_parts", "num_tiles", "batch", "s_q", "total_q", "tiles_per_request", "tiles_per_head", "block_tokens"),
        *("slots_per_part", "capacity"),
    )

    @cute.jit
    def publish_next(self, piece):
        """The record of a piece, which is not the first."""
        a = self.a
        self.a = a.but(**{name: behind(getattr(a, name), piece) for name in self.NOT_AHEAD})
        before, _ = self.bars.record_phase(piece - 1)
        part, tile, number = self.next_piece(before, Int32(0))
        tile = min(tile, self.a.num_tiles - 1)
        request, _, _ = schedule.locate_tile(a, tile)
        self.publish(piece, part, tile, number, self.look_up(request))
        self.a = a
