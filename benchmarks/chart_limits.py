"""docs/plots/time_over_limit_*.svg: ours and the peers' time over the limit, a row a benchmark case."""

from __future__ import annotations

import math

import goals
import svg

# Okabe and Ito's colours, told apart by shape too.
SERIES = {"ours": ("#0072b2", "circle"), "flashmla": ("#d55e00", "square"), "fa3": ("#009e73", "diamond")}
NAMES = {"ours": "this library", "flashmla": "FlashMLA", "fa3": "FlashAttention-3"}
LEFT, RIGHT, TOP, ROW = 190, 30, 96, 22
WIDTH = 780
TICKS = (1, 1.1, 1.25, 1.5, 2, 3, 4, 6, 8, 12, 16)
REACH = 5


def marker(shape: str, x: float, y: float, colour: str) -> str:
    if shape == "circle":
        return svg.circle(x, y, REACH, colour)
    if shape == "square":
        return svg.rectangle(x - REACH + 0.5, y - REACH + 0.5, 2 * REACH - 1, 2 * REACH - 1, colour)
    far = REACH + 1
    return svg.polygon([(x, y - far), (x + far, y), (x, y + far), (x - far, y)], colour)


def times(record: dict) -> dict[str, float]:
    """Over the limit."""
    us = {"ours": record["us"], **record["peers"]}
    return {name: us[name] / record["limit_us"] for name in SERIES if name in us}


def draw(records: list[dict], machine: str) -> str:
    last = max(value for record in records for value in times(record).values())
    ticks = [tick for tick in TICKS if tick <= last * 1.05]
    scale = (WIDTH - LEFT - RIGHT) / math.log(last * 1.05)

    def x_of(ratio: float) -> float:
        return LEFT + scale * math.log(max(ratio, 1.0))

    bottom = TOP + ROW * len(records)
    shapes = [
        svg.text(16, 24, "dense_decode: time of a call over the machine's limit", size=15, weight="bold"),
        svg.text(
            16,
            42,
            f"{machine}; bf16, pages of 64 or as a case says; logarithmic; further left is faster",
            size=11,
        ),
    ]
    x = 16.0
    for name, (colour, shape) in SERIES.items():
        shapes += [marker(shape, x + 6, 60, colour), svg.text(x + 18, 64, NAMES[name])]
        x += 150
    shapes += [svg.line(x + 6, 53, x + 6, 67, width=2), svg.text(x + 18, 64, "goal for this library")]
    shapes.append(svg.text(LEFT - 12, TOP - 10, "batch, s_q, h_q, tokens", size=11, anchor="end", weight="bold"))
    for tick in ticks:
        shapes += [
            svg.line(x_of(tick), TOP - 4, x_of(tick), bottom, colour=svg.INK if tick == 1 else svg.FAINT),
            svg.text(x_of(tick), TOP - 10, f"{tick:g}", size=11, anchor="middle"),
        ]
    for i, record in enumerate(records):
        y = TOP + ROW * (i + 0.5)
        shapes.append(svg.text(LEFT - 12, y + 4, ", ".join(map(str, record["case"])), anchor="end"))
        values = times(record)
        shapes.append(svg.line(x_of(min(values.values())), y, x_of(max(values.values())), y, colour="#bbbbbb"))
        goal = goals.goal_of(tuple(record["case"]))
        if goal and "flashmla" in values:
            at = x_of(goal.ratio * values["flashmla"])
            shapes.append(svg.line(at, y - 8, at, y + 8, width=2))
        # Ours is drawn last, on top.
        shapes += [marker(SERIES[name][1], x_of(values[name]), y, SERIES[name][0]) for name in reversed(values)]
    return svg.document(WIDTH, bottom + 16, "dense_decode: time over limit, by benchmark case", shapes)
