"""docs/plots/grid_*.svg: heat map of the best peer's time over ours, a panel for each s_q and h_q."""

from __future__ import annotations

import grid_points
import records as gpu_records
import svg

CELL, GAP, LEFT, TOP = 13, 20, 74, 122
# Best peer's time / ours from this value on: colour, name. Orange and blue are told apart by everyone.
BINS = (
    (0.0, "#b35806", "below 0.9"),
    (0.9, "#fdb863", "0.9 - 0.98"),
    (1 / gpu_records.EQUAL, "#eeeeee", "equal (2 %)"),
    (gpu_records.EQUAL, "#d1e5f0", "1.02 - 1.1"),
    (1.1, "#92c5de", "1.1 - 1.25"),
    (1.25, "#4393c3", "1.25 - 1.5"),
    (1.5, "#2166ac", "1.5 - 2"),
    (2.0, "#053061", "2 and more"),
)


def lead(record: dict) -> float:
    """The best peer's time over ours."""
    return gpu_records.best_peer(record) / record["us"]


def colour_of(value: float) -> str:
    return next(colour for start, colour, _ in reversed(BINS) if value >= start)


def short(tokens: int) -> str:
    """131072 as 128k."""
    return f"{tokens // 1024}k" if tokens >= 1024 else str(tokens)


def panel(x: float, y: float, s_q: int, h_q: int, by_point: dict[tuple, dict]) -> list[str]:
    """Batch grows upwards, tokens to the right; an x marks a cell that loses, so that colour is not all there is."""
    shapes = [svg.text(x, y - 5, f"s_q {s_q}, h_q {h_q}", size=11)]
    for i, b in enumerate(reversed(grid_points.BATCH)):
        for j, tokens in enumerate(grid_points.TOKENS):
            if b * tokens * grid_points.TOKEN_BYTES > grid_points.MAX_CACHE_BYTES:
                continue
            left, top = x + j * CELL, y + i * CELL
            record = by_point.get((b, s_q, h_q, tokens))
            if record is None:
                shapes.append(svg.circle(left + CELL / 2, top + CELL / 2, 1, "#bbbbbb"))
                continue
            others = ", ".join(f"{name} {us:g}" for name, us in record["peers"].items())
            hint = f"b {b}, s_q {s_q}, h_q {h_q}, {tokens} tokens: {record['us']:g} us; {others}"
            shapes.append(svg.rectangle(left, top, CELL - 1, CELL - 1, colour_of(lead(record)), hint=hint))
            if gpu_records.loses(record):
                shapes.append(svg.cross(left + (CELL - 1) / 2, top + (CELL - 1) / 2, 3, svg.INK))
    return shapes


def draw(records: list[dict], machine: str) -> str:
    by_point = {tuple(record["case"]): record for record in records}
    side = CELL * len(grid_points.TOKENS)
    width = LEFT + len(grid_points.H_Q) * (side + GAP)
    height = TOP + len(grid_points.S_Q) * (side + GAP) + 44
    shapes = [
        svg.text(16, 24, "dense_decode: the best peer's time over this library's", size=15, weight="bold"),
        svg.text(16, 42, f"{machine}; bf16, pages of 64; above 1 this library is faster; x: it is slower", size=11),
    ]
    for k, (_, colour, name) in enumerate(BINS):
        x = 16 + k * 88
        shapes += [svg.rectangle(x, 56, 14, 14, colour, stroke="#888888"), svg.text(x + 19, 67, name, size=10)]
    shapes += [
        svg.circle(23, 86, 1, "#888888"),
        svg.text(35, 90, "not timed; caches above 30 GB are left out", size=10),
    ]
    for k, s_q in enumerate(grid_points.S_Q):
        y = TOP + k * (side + GAP)
        for l, h_q in enumerate(grid_points.H_Q):
            shapes += panel(LEFT + l * (side + GAP), y, s_q, h_q, by_point)
        for i, b in enumerate(reversed(grid_points.BATCH)):
            shapes.append(svg.text(LEFT - 6, y + i * CELL + 10, str(b), size=9, anchor="end"))
        shapes.append(svg.text(24, y + side / 2, "batch", size=11, anchor="middle", turn=-90))
    bottom = TOP + len(grid_points.S_Q) * (side + GAP) - GAP
    for l in range(len(grid_points.H_Q)):
        x = LEFT + l * (side + GAP)
        for j, tokens in enumerate(grid_points.TOKENS):
            at = x + j * CELL + 9
            shapes.append(svg.text(at, bottom + 6, short(tokens), size=9, anchor="end", turn=-90))
        shapes.append(svg.text(x + side / 2, bottom + 44, "tokens", size=11, anchor="middle"))
    return svg.document(width, height, "dense_decode: best peer's time over ours on a grid of shapes", shapes)
