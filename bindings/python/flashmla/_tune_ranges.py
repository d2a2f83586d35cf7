"""Entries of what was found: shapes that lie beside one another and have the same choice become ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flashmla._tune_search import Found
from flashmla._tuning import Entry

_MOST_NS = 2**31 - 1


@dataclass(frozen=True)
class _Box:
    """Batches and capacities from the first to the last one, and what was found in it."""

    batch: tuple[int, int]
    capacity: tuple[int, int]
    found: Found

    def joined(self, other: _Box) -> _Box:
        """The smallest one around both."""
        batch = min(self.batch[0], other.batch[0]), max(self.batch[1], other.batch[1])
        capacity = min(self.capacity[0], other.capacity[0]), max(self.capacity[1], other.capacity[1])
        return replace(self, batch=batch, capacity=capacity)

    def holds(self, found: Found) -> bool:
        shape = found.shape
        return self.batch[0] <= shape.batch <= self.batch[1] and self.capacity[0] <= shape.capacity <= self.capacity[1]


def _ns(us: float) -> int:
    return min(round(us * 1e3), _MOST_NS)


def entries(found: Sequence[Found]) -> list[Entry]:
    """Also of shapes whose choice is by rule: between others it stays so."""
    groups: dict[object, list[Found]] = {}
    for one in found:
        groups.setdefault(replace(one.shape, batch=0, capacity=0), []).append(one)
    made = []
    for group in groups.values():
        for box in _boxes(group):
            ranges = {
                "batch_from": box.batch[0], "batch_to": box.batch[1],
                "capacity_from": box.capacity[0], "capacity_to": box.capacity[1],
            }  # fmt: skip
            times = {"ns": _ns(box.found.us), "default_ns": _ns(box.found.rule_us)}
            made.append(box.found.shape.entry(**dict(box.found.choice)) | ranges | times)
    return made


def _boxes(group: list[Found]) -> list[_Box]:
    """Boxes without a common point, which hold no shape with another choice."""
    ordered = sorted(group, key=lambda f: (f.shape.capacity, f.shape.batch))
    boxes = [_Box((f.shape.batch,) * 2, (f.shape.capacity,) * 2, f) for f in ordered]
    for along in ("batch", "capacity"):
        across = "capacity" if along == "batch" else "batch"
        kept: list[_Box] = []
        for box in sorted(boxes, key=lambda b: (getattr(b, across), getattr(b, along))):
            last = kept[-1] if kept else None
            alike = last is not None and last.found.choice == box.found.choice
            if last is not None and alike and getattr(last, across) == getattr(box, across):
                joined = last.joined(box)
                if all(one.choice == box.found.choice for one in group if joined.holds(one)):
                    kept[-1] = joined
                    continue
            kept.append(box)
        boxes = kept
    return boxes
