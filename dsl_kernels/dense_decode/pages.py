"""Where a token's row lies in a paged cache, for loaders that gather rows (gather.py)."""

import cutlass.cute as cute
from cutlass import Int32, Int64, Uint32, min

from dsl_kernels.core import schedule
from dsl_kernels.core.schedule_params import UNIT

from . import work


class Pages:
    """Rows by the block table. Which are attended follows from the records: nobody has to be told."""

    TELLS = False

    def __init__(self, kernel):
        self.kernel = kernel

    @cute.jit
    def place(self, unit, row):
        """(Token, column of the block table, row in that page) of a row of a unit."""
        a = self.kernel.a
        token = unit * UNIT + row
        column = schedule.divide(token, a.by_page)
        return token, column, token - column * a.page_size

    @cute.jit
    def read(self, record, unit, row):
        """The number of a row's page, as it is in memory, which is not waited for here. Behind the last page of a
        request it is any entry, and not used.
        """
        a = self.kernel.a
        request, _, _ = schedule.locate_tile(a, self.kernel.smem.sWork[work.TILE, record])
        _, column, _ = self.place(unit, row)
        table = cute.make_tensor(a.block_table + Int64(request) * a.block_table_stride, cute.make_layout(2**30))
        return table[Int32(min(Uint32(column), Uint32(a.max_blocks - 1)))]

    @cute.jit
    def locate(self, record, unit, row, page):
        """(Whether a row is read, where it lies, its scales). One of a page outside the cache is zeros. Behind the last
        unit, of which nothing is attended, the number of a token may be 2^31 and more.
        """
        a, sWork = self.kernel.a, self.kernel.smem.sWork
        _, head, _ = schedule.locate_tile(a, sWork[work.TILE, record])
        token, _, row_in_page = self.place(unit, row)
        valid = (Uint32(token) < Uint32(sWork[work.LENGTH, record])) and (Uint32(page) < Uint32(a.num_blocks))
        page = page if valid else Int32(0)
        start = schedule.address(a.cache) + Int64(page) * a.block_step + Int64(head) * a.head_step
        scales = start + a.scales_at + Int64(row_in_page) * a.scales_step
        return valid, start + Int64(row_in_page) * a.row_step, scales
