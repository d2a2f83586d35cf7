"""SVG written by hand: the few shapes that the plots need, with coordinates rounded so that files compare as text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

FONT = "font-family='Helvetica, Arial, sans-serif'"
INK, FAINT = "#222222", "#dddddd"


def number(value: float) -> str:
    """At most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def text(
    x: float, y: float, words: str, *, size: int = 12, anchor: str = "start", weight: str = "normal", turn: int = 0
) -> str:
    turned = f" transform='rotate({turn} {number(x)} {number(y)})'" if turn else ""
    return (
        f"<text x='{number(x)}' y='{number(y)}' font-size='{size}' text-anchor='{anchor}' font-weight='{weight}'"
        f" fill='{INK}'{turned}>{escape(words)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, *, colour: str = INK, width: float = 1) -> str:
    ends = f"x1='{number(x1)}' y1='{number(y1)}' x2='{number(x2)}' y2='{number(y2)}'"
    return f"<line {ends} stroke='{colour}' stroke-width='{width}'/>"


def rectangle(
    x: float, y: float, width: float, height: float, fill: str, *, stroke: str = "none", hint: str = ""
) -> str:
    box = f"x='{number(x)}' y='{number(y)}' width='{number(width)}' height='{number(height)}'"
    inside = f"<title>{escape(hint)}</title>" if hint else ""
    return f"<rect {box} fill='{fill}' stroke='{stroke}'>{inside}</rect>"


def polygon(points: Sequence[tuple[float, float]], fill: str) -> str:
    corners = " ".join(f"{number(x)},{number(y)}" for x, y in points)
    return f"<polygon points='{corners}' fill='{fill}'/>"


def circle(x: float, y: float, radius: float, fill: str) -> str:
    return f"<circle cx='{number(x)}' cy='{number(y)}' r='{number(radius)}' fill='{fill}'/>"


def cross(x: float, y: float, reach: float, colour: str) -> str:
    return line(x - reach, y - reach, x + reach, y + reach, colour=colour, width=1.5) + line(
        x - reach, y + reach, x + reach, y - reach, colour=colour, width=1.5
    )


def document(width: float, height: float, label: str, shapes: Sequence[str]) -> str:
    """The whole file, on white: the page around it may be dark."""
    size = f"width='{number(width)}' height='{number(height)}' viewBox='0 0 {number(width)} {number(height)}'"
    head = f"<svg xmlns='http://www.w3.org/2000/svg' {size} role='img' aria-label='{escape(label, quote=True)}' {FONT}>"
    return "\n".join([head, rectangle(0, 0, width, height, "#ffffff"), *shapes, "</svg>"]) + "\n"
