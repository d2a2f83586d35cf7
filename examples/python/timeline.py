"""Throughput and pages over time: what each step was, drawn with characters or as SVG."""

import dataclasses
import math
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from flashmla import _svg

BLOCKS, PLAIN = " ▁▂▃▄▅▆▇█", " .:#"  # parts of a character's height
ROWS = 5  # of a chart in a terminal
LABEL = 8  # columns left of a chart in a terminal
WIDEST = 100
COLUMNS = 200  # of the SVG


@dataclasses.dataclass(frozen=True)
class Sample:
    """A step: when it ended, in seconds of steps, what it did, and the pages behind it."""

    end: float
    seconds: float
    prompt_tokens: int
    new_tokens: int
    used: int
    cached: int
    swapped: int


@dataclasses.dataclass(frozen=True)
class Chart:
    """Something over time: `of` tells it of the steps that a column spans."""

    title: str
    of: Callable[[Sequence[Sample]], float]
    colour: int  # ANSI


def per_second(name: str) -> Callable[[Sequence[Sample]], float]:
    return lambda samples: sum(getattr(s, name) for s in samples) / max(sum(s.seconds for s in samples), 1e-9)


def fullest(name: str) -> Callable[[Sequence[Sample]], float]:
    """Of the step behind which most pages were used, so that what is told of it adds up."""
    return lambda samples: getattr(max(samples, key=lambda sample: sample.used), name)


def most(name: str) -> Callable[[Sequence[Sample]], float]:
    return lambda samples: max(getattr(s, name) for s in samples)


NEW, PROMPT = per_second("new_tokens"), per_second("prompt_tokens")
USED, CACHED, SWAPPED = fullest("used"), fullest("cached"), most("swapped")
CHARTS = (
    Chart("tokens/s generated", NEW, 36),
    Chart("pages used", USED, 32),
    Chart("pages in host memory, of what is swapped out", SWAPPED, 33),
)


def columns(samples: Sequence[Sample], count: int) -> list[list[Sample]]:
    """The steps that end in each of `count` stretches of the time; where none does, the last one before."""
    end = samples[-1].end or 1.0
    found: list[list[Sample]] = [[] for _ in range(count)]
    for sample in samples:
        found[min(int(sample.end / end * count), count - 1)].append(sample)
    for i, of in enumerate(found):
        if not of:
            found[i] = found[i - 1][-1:] if i else [samples[0]]
    return found


def bars(values: Sequence[float], top: float, ramp: str) -> list[str]:
    """Rows of characters, the highest first; what is not 0 shows."""
    steps = len(ramp) - 1
    filled = [max(round(value / top * ROWS * steps), int(value > 0)) if top else 0 for value in values]
    return [
        "".join(ramp[min(max(height - row * steps, 0), steps)] for height in filled) for row in reversed(range(ROWS))
    ]


def draw(samples: Sequence[Sample], out: TextIO | None = None) -> None:
    """In a terminal as wide as it is; in colour where it shows them and NO_COLOR does not forbid it."""
    out = out or sys.stdout
    colours = out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    try:
        (BLOCKS + "│└─").encode(out.encoding or "ascii")
        ramp, side, corner, floor = BLOCKS, "│", "└", "─"
    except UnicodeEncodeError:
        ramp, side, corner, floor = PLAIN, "|", "+", "-"
    width = max(min(shutil.get_terminal_size().columns, WIDEST) - LABEL - 3, 10)
    spans = columns(samples, width)
    for chart in CHARTS:
        values = [chart.of(span) for span in spans]
        top = max(values)
        print(f"  {chart.title[: width + LABEL]}" + ("" if top else ": none"), file=out)
        if not top:
            continue
        for number, line in enumerate(bars(values, top, ramp)):
            label = f"{top:,.0f}" if number == 0 else ""
            painted = f"\x1b[{chart.colour}m{line}\x1b[0m" if colours else line.rstrip()
            print(f"{label:>{LABEL}} {side}{painted}", file=out)
        print(f"{'0':>{LABEL}} {corner}{floor * width}", file=out)
    last = f"{samples[-1].end:.1f} s in steps"
    print(f"{'':>{LABEL + 2}}0{last:>{width - 1}}", file=out)


WIDTH, LEFT, RIGHT, HEIGHT, TOP, GAP = 860, 76, 40, 130, 96, 70
BLUE, SKY, GREEN, PALE, ORANGE = "#1f6fb4", "#7fb0d8", "#3a9a4a", "#c6dfb0", "#d9822b"
Series = tuple[str, str, Callable[[Sequence[Sample]], float]]  # name, colour, what it is of


def round_up(value: float) -> int:
    """To four even parts of at most two digits that are not 0."""
    part = max(math.ceil(value / 4), 1)
    unit = 10 ** max(len(str(part)) - 2, 0)
    return 4 * unit * math.ceil(part / unit)


def panel(top: float, title: str, most_of: float | None, series: Sequence[Series], spans: Sequence[Any]) -> list[str]:
    """A chart of columns; each series stands on those before it. `most_of`: of the axis; None: what fits."""
    stacked = [[of(span) for span in spans] for _, _, of in series]
    scale_top = most_of or round_up(max(map(sum, zip(*stacked, strict=True))))
    bottom, scale, shapes = top + HEIGHT, HEIGHT / scale_top, [_svg.text(LEFT, top - 10, title, size=13)]
    at = float(WIDTH - RIGHT)
    for name, colour, _ in reversed(series if len(series) > 1 else []):
        at -= 30 + 5.6 * len(name)
        shapes += [_svg.rectangle(at, top - 19, 10, 10, colour), _svg.text(at + 14, top - 10, name, size=11)]
    for part in range(5):
        y = bottom - HEIGHT * part / 4
        shapes.append(_svg.path([(LEFT, y), (WIDTH - RIGHT, y)], colour=_svg.FAINT))
        shapes.append(_svg.text(LEFT - 6, y + 4, f"{scale_top * part / 4:,.12g}", anchor="end", size=11))
    step, base = (WIDTH - LEFT - RIGHT) / len(spans), [0.0] * len(spans)
    for (_, colour, _), values in zip(series, stacked, strict=True):
        for i, value in enumerate(values):
            base[i] += value
            if value > 0:
                place = LEFT + i * step, bottom - base[i] * scale
                shapes.append(_svg.rectangle(*place, step + 0.1, value * scale, colour))
    return shapes


def picture(samples: Sequence[Sample], title: str, num_blocks: int) -> str:
    """The SVG."""
    spans = columns(samples, COLUMNS)
    panels: list[tuple[str, float | None, list[Series]]] = [
        ("Tokens generated a second", None, [("", BLUE, NEW)]),
        ("Tokens of prompts a second", None, [("", SKY, PROMPT)]),
        ("Pages of the pool", num_blocks, [("used", GREEN, USED), ("kept for prompts that begin alike", PALE, CACHED)]),
        ("Pages in host memory, of what is swapped out", None, [("", ORANGE, SWAPPED)]),
    ]
    shapes = [_svg.text(LEFT, 34, title, size=16)]
    for number, of in enumerate(panels):
        shapes += panel(TOP + number * (HEIGHT + GAP), *of, spans)
    bottom = TOP + len(panels) * (HEIGHT + GAP) - GAP
    for part in range(5):
        x = LEFT + (WIDTH - LEFT - RIGHT) * part / 4
        shapes.append(_svg.text(x, bottom + 20, f"{samples[-1].end * part / 4:.3g} s", anchor="middle", size=11))
    return _svg.document(WIDTH, bottom + 40, title, shapes)
