"""A profile as a picture: a roofline with the calls on it, and when which operation was busy."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flashmla import _svg
from flashmla._profile_records import Group, Limits

_COLOURS = ("#1f6fb4", "#d9822b", "#3a9a4a", "#b23a48", "#7b5ea7", "#7a5a3a", "#c06aa5", "#3f9ea8", "#8a8a2a")
_WIDTH, _LEFT, _RIGHT, _TOP = 860, 70, 30, 50
_ROOF_HEIGHT, _ROW, _GAP = 330, 26, 80
_COLUMNS = 240  # of the timeline
_INSIDE = _WIDTH - _LEFT - _RIGHT


class _Log:
    """A logarithmic axis over whole decades."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        self.low = math.floor(math.log10(min(values)))
        self.high = max(math.ceil(math.log10(max(values))), self.low + 1)
        self._begin, self._end = begin, end

    def at(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self._begin + share * (self._end - self._begin)

    def decades(self) -> list[float]:
        return [10.0**power for power in range(self.low, self.high + 1)]


def _colours(groups: Sequence[Group]) -> dict[str, str]:
    names = sorted({group.operation for group in groups})
    return {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}


def _roof(limits: Limits, x: _Log, y: _Log) -> str:
    """Bandwidth up to the ridge, then the rate of the tensor cores."""
    bandwidth, rate = limits.bytes_per_second, limits.flop_per_second
    ridge = rate / bandwidth
    least, most = 10.0**x.low, 10.0**x.high
    points = [(least, bandwidth * least), (ridge, rate), (max(most, ridge), rate)]
    bottom = 10.0**y.low
    if points[0][1] < bottom:
        points[0] = (bottom / bandwidth, bottom)
    return _svg.path([(x.at(i), y.at(f)) for i, f in points], width=2)


def _axes(x: _Log, y: _Log, top: float, bottom: float) -> list[str]:
    shapes = []
    for value in x.decades():
        at = x.at(value)
        shapes += [_svg.path([(at, top), (at, bottom)], colour=_svg.FAINT)]
        shapes += [_svg.text(at, bottom + 16, f"{value:g}", anchor="middle", size=11)]
    for value in y.decades():
        at = y.at(value)
        shapes += [_svg.path([(_LEFT, at), (_WIDTH - _RIGHT, at)], colour=_svg.FAINT)]
        shapes += [_svg.text(_LEFT - 6, at + 4, f"{value / 1e12:g}", anchor="end", size=11)]
    shapes.append(_svg.text(_LEFT + _INSIDE / 2, bottom + 34, "FLOP a byte", anchor="middle"))
    shapes.append(_svg.turned(18, (top + bottom) / 2, "TFLOP/s"))
    return shapes


def _roofline(groups: Sequence[Group], colours: dict[str, str], top: float) -> list[str]:
    """Groups with FLOP, as large as the time that they take."""
    bottom = top + _ROOF_HEIGHT
    shown = [(group, rate) for group in groups for rate in [group.rate("flop")] if rate]
    if not shown:
        return [_svg.text(_LEFT, top + 20, "no calls with FLOP whose time is known", colour=_svg.GREY)]
    limits = next((g.limits for g, _ in shown if g.limits and g.limits.flop_per_second), None)
    across, up = [group.intensity for group, _ in shown], [rate for _, rate in shown]
    if limits is not None:
        across.append(limits.flop_per_second / limits.bytes_per_second)
        up.append(limits.flop_per_second)
    x, y = _Log(across, _LEFT, _WIDTH - _RIGHT), _Log(up, bottom, top)
    shapes = _axes(x, y, top, bottom)
    if limits is not None:
        words = f"{limits.bytes_per_second / 1e9:,.0f} GB/s, {limits.flop_per_second / 1e12:,.0f} TFLOP/s"
        shapes += [_roof(limits, x, y), _svg.text(_WIDTH - _RIGHT, top - 6, words, anchor="end", size=11)]
    longest = max(group.seconds or 0.0 for group, _ in shown)
    for group, rate in shown:
        radius = 4 + 8 * math.sqrt((group.seconds or 0.0) / longest)
        share = "" if group.share is None else f", {group.share:.0%} of the limit"
        hint = f"{group.operation}: {group.shape}, {len(group.records)} calls, {rate / 1e12:.3g} TFLOP/s{share}"
        shapes.append(_svg.circle(x.at(group.intensity), y.at(rate), radius, colours[group.operation], hint=hint))
    return shapes


def _spans(groups: Sequence[Group]) -> dict[str, list[tuple[int, int]]]:
    """Begin and end of the calls of each operation in nanoseconds: on the device where that is known."""
    found: dict[str, list[tuple[int, int]]] = {}
    for group in groups:
        begin, took = ("device_begin_ns", "device_ns") if group.on_gpu else ("begin_ns", "host_ns")
        for record in group.timed:
            found.setdefault(group.operation, []).append((record[begin], record[begin] + record[took]))
    return found


def _busy(spans: Sequence[tuple[int, int]], begin: int, step: float) -> list[float]:
    """The share of each column of the timeline in which the operation was busy; several streams count as one."""
    busy = [0.0] * _COLUMNS
    for start, end in spans:
        first = min(int((start - begin) / step), _COLUMNS - 1)
        last = min(int((end - begin) / step), _COLUMNS - 1)
        for column in range(first, last + 1):
            left, right = begin + column * step, begin + (column + 1) * step
            busy[column] += max(0.0, min(end, right) - max(start, left)) / step
    return [min(1.0, share) for share in busy]


def _timeline(groups: Sequence[Group], colours: dict[str, str], top: float) -> list[str]:
    """A row for each operation. Clocks of hosts and devices differ: each kind begins at its first call."""
    shapes = []
    rows: list[tuple[str, list[tuple[int, int]], int]] = []
    for on_gpu in (True, False):
        spans = _spans([group for group in groups if group.on_gpu is on_gpu])
        first = min((start for of in spans.values() for start, _ in of), default=0)
        rows += [(name, of, first) for name, of in sorted(spans.items())]
    length = max((end - first for _, of, first in rows for _, end in of), default=1) or 1
    step, width = length / _COLUMNS, _INSIDE / _COLUMNS
    for i, (name, spans_of, first) in enumerate(rows):
        y = top + i * _ROW
        total = sum(end - start for start, end in spans_of) / 1e6
        shapes.append(_svg.rectangle(_LEFT, y + 14, _INSIDE, _ROW - 16, _svg.FAINT, opacity=0.4))
        shapes.append(_svg.text(_LEFT, y + 11, f"{name}: {len(spans_of)} timed calls, {total:.3g} ms", size=11))
        for column, share in enumerate(_busy(spans_of, first, step)):
            if share > 0:
                at = _LEFT + column * width
                shapes.append(_svg.rectangle(at, y + 14, width, _ROW - 16, colours[name], opacity=max(0.15, share)))
    bottom = top + len(rows) * _ROW + 4
    for i in range(5):
        at, ms = _LEFT + _INSIDE * i / 4, length * i / 4 / 1e6
        shapes.append(_svg.text(at, bottom + 14, f"{ms:.3g} ms", anchor="middle", size=11))
    return shapes


def picture(groups: Sequence[Group], title: str) -> str:
    """The SVG."""
    colours = _colours(groups)
    shapes = [_svg.text(_LEFT, 26, title, size=16)]
    at = float(_LEFT)
    for name, colour in colours.items():
        shapes += [_svg.rectangle(at, 34, 10, 10, colour), _svg.text(at + 14, 43, name, size=11)]
        at += 30 + 6.5 * len(name)
    shapes += _roofline(groups, colours, _TOP + 10)
    timeline = _TOP + 10 + _ROOF_HEIGHT + _GAP
    shapes.append(_svg.text(_LEFT, timeline - 18, "Time by operation"))
    shapes += _timeline(groups, colours, timeline)
    rows = len({(group.operation, group.on_gpu) for group in groups})
    return _svg.document(_WIDTH, timeline + rows * _ROW + 40, title, shapes)
