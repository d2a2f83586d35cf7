"""The warpgroup MMA, and the views of register fragments and shared-memory tiles that it needs."""

import cutlass
import cutlass.cute as cute
from cutlass.cute.nvgpu import warpgroup


@cute.jit
def gemm(
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
    for step in cutlass.range_constexpr(*steps):
        cute.gemm(atom, acc, A[None, None, step], B[None, None, b0 + step], acc)
        atom.set(warpgroup.Field.ACCUMULATE, True)


def row_of(thread):
    """First of the two rows (r and r + 8) that a thread of a warpgroup holds in an m64 accumulator."""
    return ((thread >> 5) << 4) + ((thread >> 2) & 7)


def accumulator_rows(acc):
    """An m64nN accumulator ((2, 2, N/8), 1, 1) seen as (2 rows of this thread, N/4 columns): column c is column
    (c // 2) * 8 + c % 2 + 2 * (lane % 4) of the matrix.
    """
    s, d = acc.layout.shape, acc.layout.stride
    layout = cute.make_layout(
        ((s[0][1], s[1]), (s[0][0], s[0][2], s[2])),
        stride=((d[0][1], d[1]), (d[0][0], d[0][2], d[2])),
    )
    return cute.make_tensor(acc.iterator, layout)


def transposed(tile):
    """The tile with its first two modes exchanged: a K-major K tile read as the MN-major V operand, same bytes."""
    return cute.make_tensor(tile.iterator, cute.select(tile.layout, mode=[1, 0, *range(2, cute.rank(tile))]))


@cute.jit
def store_p(words: cute.Tensor, slice_start: cute.Pointer, thread):
    """Stores an m64n64 accumulator of two-byte values, as a warpgroup holds it, to a slice (64 x 64, 128-byte swizzle).

    words: the 16 registers of the thread. By hand, because these instructions lie on the critical path of a unit.
    """
    lane = thread & 31
    row = ((thread >> 5) << 4) + (((lane >> 3) & 1) << 3) + (lane & 7)
    chunk = ((lane >> 4) ^ (lane & 7)) << 4  # bytes; the swizzle is an exclusive or with the row's low bits
    start = slice_start.toint() + (row << 7)
    for j in cutlass.range_constexpr(4):
        store_matrices(start + (chunk ^ (32 * j)), [words[4 * j + i] for i in range(4)])


def store_matrices(row_address, words):
    """stmatrix: four 8 x 8 matrices of two-byte values, of which a lane holds a pair each; lane i gives the address of
    row i % 8 of matrix i // 8.
    """
    cute.arch.inline_ptx(
        "stmatrix.sync.aligned.m8n8.x4.shared.b16 [{$r0}], { {$r1}, {$r2}, {$r3}, {$r4} };",
        read_only_args=[row_address, *words],
    )
