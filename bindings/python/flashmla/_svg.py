"""SVG written by hand: the few shapes that pictures of a profile need, with coordinates rounded."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

INK, GREY, FAINT = "#222222", "#777777", "#dddddd"
_FONT = "font-family='Helvetica, Arial, sans-serif'"


def number(value: float) -> str:
    """At most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def text(x: float, y: float, words: str, *, size: int = 12, anchor: str = "start", colour: str = INK) -> str:
    place = f"x='{number(x)}' y='{number(y)}'"
    return f"<text {place} font-size='{size}' text-anchor='{anchor}' fill='{colour}'>{escape(words)}</text>"


def turned(x: float, y: float, words: str, *, size: int = 12) -> str:
    """Text that runs upwards, its middle at the place."""
    place = f"x='{number(x)}' y='{number(y)}' transform='rotate(-90 {number(x)} {number(y)})'"
    return f"<text {place} font-size='{size}' text-anchor='middle' fill='{INK}'>{escape(words)}</text>"


def path(points: Sequence[tuple[float, float]], *, colour: str = INK, width: float = 1) -> str:
    """Straight lines from point to point."""
    steps = " ".join(f"{number(x)},{number(y)}" for x, y in points)
    return f"<polyline points='{steps}' fill='none' stroke='{colour}' stroke-width='{width}'/>"


def rectangle(x: float, y: float, width: float, height: float, fill: str, *, opacity: float = 1, hint: str = "") -> str:
    box = f"x='{number(x)}' y='{number(y)}' width='{number(width)}' height='{number(height)}'"
    inside = f"<title>{escape(hint)}</title>" if hint else ""
    return f"<rect {box} fill='{fill}' fill-opacity='{opacity:.2f}' shape-rendering='crispEdges'>{inside}</rect>"


def circle(x: float, y: float, radius: float, fill: str, *, hint: str = "") -> str:
    inside = f"<title>{escape(hint)}</title>" if hint else ""
    place = f"cx='{number(x)}' cy='{number(y)}' r='{number(radius)}'"
    return f"<circle {place} fill='{fill}' fill-opacity='0.75' stroke='{INK}' stroke-width='0.5'>{inside}</circle>"


def document(width: float, height: float, label: str, shapes: Sequence[str]) -> str:
    """The whole file, on white: the page around it may be dark."""
    size = f"width='{number(width)}' height='{number(height)}' viewBox='0 0 {number(width)} {number(height)}'"
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' {size} role='img' aria-label='{escape(label, quote=True)}' {_FONT}>"
    )
    return "\n".join([head, rectangle(0, 0, width, height, "#ffffff"), *shapes, "</svg>"]) + "\n"
