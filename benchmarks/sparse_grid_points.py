"""The points of sparse_grid.py, in the order in which they are timed, and about how long each takes. Needs no GPU.

Of all combinations of batch, s_q, h_q and topk every 25th is taken of each format, along the diagonals of the grid, so
that each value of an axis is there with many of every other; the 25 phases together are the whole grid.
"""

from __future__ import annotations

FORMATS = ("bf16", "v32", "model1")
BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
S_Q = (1, 2, 3, 4)
H_Q = (8, 16, 32, 64, 128)
TOPK = (64, 128, 256, 512, 1024, 2048, 4096)
EXTRA_TOPK = {"model1": 128}  # with a sink, as models of this format have it
PHASES = 25
TOKEN_BYTES = 1152  # at most
TARGET_US = 1500.0  # work of a graph replay
ROUNDS, ROUNDS_AGAIN = 3, 7

Point = tuple[str, int, int, int, int, int]  # format, b, s_q, h_q, topk, extra topk


def points(phases: int = 1) -> list[Point]:
    """`phases` 25ths of the grid."""
    return [
        (kv_format, b, s_q, h_q, topk, EXTRA_TOPK.get(kv_format, 0))
        for m, kv_format in enumerate(FORMATS)
        for i, b in enumerate(BATCH)
        for k, s_q in enumerate(S_Q)
        for l, h_q in enumerate(H_Q)
        for j, topk in enumerate(TOPK)
        if (i + 4 * j + 7 * k + 11 * l + 8 * m) % PHASES < phases
    ]


def about_us(point: Point) -> float:
    """What a call takes, roughly, on a Hopper GPU."""
    _, b, s_q, h_q, topk, extra_topk = point
    rows = b * s_q * (topk + extra_topk)
    return 15.0 + max(rows * TOKEN_BYTES / 2.5e6, 2 * rows * max(64, h_q) * (576 + 512) / 300e6)


def seconds(point: Point, contenders: int = 2) -> float:
    """Of one point: single calls, a warm replay and the rounds, of every contender, and what surrounds them."""
    replay = max(TARGET_US, 2 * about_us(point))
    return 0.05 + contenders * (0.03 + (1 + ROUNDS) * replay / 1e6)
