"""Views of register fragments and shared-memory tiles that the warpgroup MMA needs."""

import cutlass.cute as cute


def accumulator_rows(acc):
    """An m64nN accumulator ((2, 2, N/8), 1, 1) seen as (2 rows of this thread, N/4 columns)."""
    s, d = acc.layout.shape, acc.layout.stride
    layout = cute.make_layout(
        ((s[0][1], s[1]), (s[0][0], s[0][2], s[2])),
        stride=((d[0][1], d[1]), (d[0][0], d[0][2], d[2])),
    )
    return cute.make_tensor(acc.iterator, layout)


def transposed(tile):
    """The tile with its first two modes exchanged: a K-major K tile read as the MN-major V operand, same bytes."""
    return cute.make_tensor(tile.iterator, cute.select(tile.layout, mode=[1, 0, *range(2, cute.rank(tile))]))
