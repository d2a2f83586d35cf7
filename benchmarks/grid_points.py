"""The points of grid.py, in the order in which they are timed, and about how long each takes. Needs no GPU.

Of all combinations of batch, s_q, h_q and tokens whose cache is at most 30 GB every fifth is taken, along the diagonals
of the grid: each (s_q, h_q) then has points in every row and column of its plane of batch and tokens, and the five
phases together are the whole grid.
"""

from __future__ import annotations

BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
S_Q = (1, 2, 3, 4)
H_Q = (8, 16, 32, 64, 128)
TOKENS = (128, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
PHASES = 5
TOKEN_BYTES = 576 * 2
MAX_CACHE_BYTES = 30e9
TARGET_US = 2000.0  # work of a graph replay
ROUNDS, ROUNDS_AGAIN = 3, 5

Point = tuple[int, int, int, int]  # b, s_q, h_q, tokens


def points(phases: int = 1) -> list[Point]:
    """`phases` fifths of the grid."""
    return [
        (b, s_q, h_q, tokens)
        for k, s_q in enumerate(S_Q)
        for l, h_q in enumerate(H_Q)
        for i, b in enumerate(BATCH)
        for j, tokens in enumerate(TOKENS)
        if (i + 2 * j + 3 * k + l) % PHASES < phases and b * tokens * TOKEN_BYTES <= MAX_CACHE_BYTES
    ]


def shard(all_points: list[Point], index: int, count: int) -> list[Point]:
    """Every count-th point, so that the shards take equally long."""
    return all_points[index::count]


def about_us(point: Point) -> float:
    """What a call takes, roughly, on a Hopper GPU."""
    b, s_q, h_q, tokens = point
    memory = b * tokens * TOKEN_BYTES / 3.0e6
    rows = max(16, s_q * h_q)  # tensor cores work on rows of one query token together
    compute = 2 * b * rows * tokens * (576 + 512) / 500e6
    return 15.0 + max(memory, compute)


def seconds(point: Point, contenders: int = 3) -> float:
    """Of one point: three single calls, a warm replay and the rounds, of every contender, and what surrounds them."""
    us = about_us(point)
    replay = max(TARGET_US, us)
    surround = 0.08 + 0.03 * contenders  # tensors and tables; capture of up to 200 calls
    return surround + contenders * (3 * us + (1 + ROUNDS) * replay) / 1e6
