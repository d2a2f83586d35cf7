"""Where the loaders of a page kernel find the rows of a unit: a model of their arithmetic in 32 bits, with the
parameters that a launch must have. It follows dsl_kernels/dense_decode/loader.py and must be changed with it.
"""

from __future__ import annotations

import itertools

import pytest

from dsl_kernels.dense_decode.params import LOG_INVERSE
from ops.dense_decode.launches import INT32_MAX, UNIT, paging_params
from ops.dense_decode.shape_only import STEP

SIZES = (*range(1, 130), 192, 272, 528, 1056, 2**14, 10**6 + 16, 2**31 - 64, 2**31 - 16, INT32_MAX)


def int32(value: int) -> int:
    """What is left of it in a register."""
    return (value + 2**31) % 2**32 - 2**31


class Loader:
    """Of the CTA of a rank: the column and the row where the unit begins, as the cursor has them."""

    def __init__(self, page_size: int, cluster: int, rank: int, unit: int) -> None:
        self.a = paging_params(STEP.but(page_size=page_size), cluster)
        self.cluster, self.rank = cluster, rank
        token = int32(unit * UNIT)
        multiplier, shift = self.a["by_page"] % 2**32, self.a["by_page"] >> 32
        self.column = int32(token * multiplier >> shift)
        self.row = int32(token - self.column * self.a["page_size"])

    def pages_in(self, rows: int) -> int:
        if self.a["page_size"] < UNIT:
            return int32(rows * self.a["page_inverse"]) >> LOG_INVERSE
        return int(rows >= self.a["page_size"])

    def boxes(self) -> list[tuple[int, int, int]]:
        """Of each box the column, the row in that page and the row in the unit."""
        a, found, row = self.a, [], self.row
        if self.cluster > 1:
            row = int32(row + self.rank * (UNIT // self.cluster))
            row = int32(row - self.pages_in(row) * a["page_size"])
        for box in range(a["boxes"]):
            lane = self.rank * a["boxes"] + box
            column = self.column + self.pages_in(int32(self.row + lane * a["box_rows"]))
            found.append((column, row, lane * a["box_rows"]))
            row = int32(row + a["box_rows"])
            if row >= a["page_size"]:
                row -= a["page_size"]
        return found

    def step(self) -> None:
        self.column, self.row = self.column + self.a["whole_pages"], int32(self.row + self.a["rows_beyond"])
        if self.row >= self.a["page_size"]:
            self.column, self.row = self.column + 1, self.row - self.a["page_size"]


@pytest.mark.parametrize(("cluster", "rank"), [(1, 0), (2, 0), (2, 1)])
def test_every_row_of_a_unit_comes_from_its_page(cluster, rank):
    last = (INT32_MAX - 1) // UNIT  # the last unit that a length can reach
    for page_size, first in itertools.product(SIZES, (0, 1, 5, 2**19 + 3, last - 3)):
        loader = Loader(page_size, cluster, rank, first)
        for unit in range(first, first + 4):
            rows = set()
            for column, row, at in loader.boxes():
                box_rows = loader.a["box_rows"]
                token = unit * UNIT + at
                rows |= set(range(at, at + box_rows))
                if token < INT32_MAX:
                    assert (column, row) == divmod(token, page_size), (page_size, unit, at)
                    assert row + box_rows <= page_size, "a box lies in two pages"
            assert rows == set(range(rank * UNIT // cluster, (rank + 1) * UNIT // cluster))
            loader.step()
