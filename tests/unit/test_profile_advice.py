"""What a profile advises, rule by rule, and how it is drawn: of calls on a GPU that was never there."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from flashmla import _profile_records
from flashmla._profile_advice import GIVE_OUTPUTS, RULES, advice
from flashmla._profile_pictures import picture
from flashmla._profile_records import Group, grouped
from made_up_records import H100, group, record

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "profiling.md"
# By rule: calls that it is for, and calls like them that it has nothing to say of.
CASES = {
    "share a plan": (group(2, flags=["own_plan", "counted"]), group(2)),
    "prepare calls": (group(8, host_ns=500_000), group(8)),
    "batch size": (
        group(batch=4, bytes=20_000_000, flop=4_000_000_000, device_ns=20_000),
        group(batch=4, bytes=60_000_000, flop=4_000_000_000, device_ns=20_000),
    ),
    "heads per rank": (group(h_q=16), group(h_q=64)),
    "page size": (group(page_size=1), group(page_size=48)),
    "split counts": (group(num_splits=4), group(num_splits=1)),
    "cold calls": (group(flags=["loaded", "counted"], host_ns=30_000_000), group()),
    "lengths": (group(flags=[]), group()),
    "captured calls": (group(device_time="captured", device_ns=-1), group()),
    "lost times": (group(device_time="lost", device_ns=-1), group()),
}


def test_every_rule_has_a_case():
    assert list(CASES) == [rule.name for rule in RULES]


def test_splits_that_bits_follow_from_get_no_advice():
    assert advice([group(num_splits=4, flags=["batch_invariant", "counted"])], 0) == []
    assert advice([group(num_splits=4, flags=["tuned", "counted"])], 0) == []


@pytest.mark.parametrize("why", ["skipped", "captured", "lost"])
def test_calls_without_a_time_are_no_calls_of_full_tables(why):
    """Their lengths are counted by no profile, and nothing is told of them that lengths would change."""
    known = record(tokens=128 * 1000, bytes=100, flop=300)
    without = record(flags=[], device_time=why, device_ns=-1, bytes=900, flop=900)
    calls = Group([known, without], H100)
    assert not [one for one in advice([calls], 0) if one.rule == "lengths"]
    assert calls.intensity == 3
    assert calls.tables == [{"capacity": 4096, "calls": 2, "tokens": 1000}]
    alone = Group([without], H100)
    assert alone.intensity == 1
    assert alone.tables == [{"capacity": 4096, "calls": 1, "tokens": 4096}]


@pytest.mark.parametrize("name", CASES)
def test_a_rule_speaks_where_it_should(name):
    for_it, not_for_it = CASES[name]
    assert [one.sentence for one in advice([for_it], 0) if one.rule == name]
    assert not [one.sentence for one in advice([not_for_it], 0) if one.rule == name]


def test_good_calls_get_no_advice():
    assert advice([group(20)], 0) == []


def test_figures_in_sentences():
    def sentence(name):
        (found,) = [one.sentence for one in advice([CASES[name][0]], 0) if one.rule == name]
        return found

    # 20 MB at 3.35 TB/s are 5.97 us of 20; 80 % of the limit would be reached with 2.7 times the batch.
    assert "20.0 us at 30% of the limit" in sentence("batch size")
    assert "a batch of about 11 on (now 4)" in sentence("batch size")
    assert "16 query rows share a read" in sentence("heads per rank")
    assert "30,000 us" in sentence("cold calls")
    assert "500.0 us a call and the device 250.0: prepare" in sentence("prepare calls")
    prepared = group(8, host_ns=500_000, flags=["prepared", "counted"])
    assert "capture the step in a CUDA graph" in advice([prepared], 0)[0].sentence


@pytest.mark.parametrize(("made", "told"), [(7, False), (8, True)])
def test_outputs_that_are_made(made, told):
    assert bool([one for one in advice([], made) if one.rule == GIVE_OUTPUTS]) is told


def test_the_document_tells_every_rule():
    table = DOCUMENT.read_text().partition("## Advice")[2].partition("## ")[0]
    told = re.findall(r"^\| ([a-z ]+) \|", table, re.MULTILINE)
    assert told[1:] == [*(rule.name for rule in RULES), GIVE_OUTPUTS]


def test_groups_are_of_one_shape_and_the_longest_comes_first():
    records = [record(number=i, batch=(4, 128)[i % 2], device_ns=(1_000, 9_000)[i % 2]) for i in range(10)]
    found = grouped([one | {"device_id": -1, "device_time": "none", "host_ns": one["device_ns"]} for one in records])
    assert [(one.batch, len(one.records)) for one in found] == [(128, 5), (4, 5)]


def test_groups_are_ordered_by_all_of_their_calls(monkeypatch):
    """Of the small batch one call in ten was timed, and the others take as long."""
    monkeypatch.setattr(_profile_records, "limits_of", lambda _: H100)
    small = [record(batch=4, device_ns=1_000, device_time="known" if i == 0 else "skipped") for i in range(10)]
    found = grouped([*(record(batch=128, device_ns=2_000) for _ in range(2)), *small])
    assert [(one.batch, one.to_dict()["calls"], one.to_dict()["timed_calls"]) for one in found] == [
        (4, 10, 1),
        (128, 2, 2),
    ]


def test_the_share_of_the_limit():
    """600 MB take 179.1 us at 3.35 TB/s, 140 GFLOP 141.4 us."""
    assert group(3).share == pytest.approx(179.1 / 250, rel=1e-3)
    assert group(3, flop=280_000_000_000).share == pytest.approx(282.8 / 250, rel=1e-3)
    assert group(1, device_time="captured", device_ns=-1).share is None


SVG = "{http://www.w3.org/2000/svg}"


def drawn(groups):
    return ET.fromstring(picture(groups, "title"))


def test_the_roofline_has_its_calls_where_they_are():
    """The ridge of an H100 is at 295.5 FLOP a byte; a call on the roof lies on the line."""
    on_roof = group(intensity := 1, bytes=3_350_000_000, flop=33_500_000_000, device_ns=1_000_000)
    tree = drawn([on_roof])
    (circle,) = tree.findall(f"{SVG}circle")
    roof = max(tree.findall(f"{SVG}polyline"), key=lambda line: float(line.get("stroke-width")))
    points = [tuple(map(float, point.split(","))) for point in roof.get("points").split()]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert y1 == y2
    assert x2 >= x1
    x, y = float(circle.get("cx")), float(circle.get("cy"))
    assert y == pytest.approx(y0 + (y1 - y0) * (x - x0) / (x1 - x0), abs=0.3)
    assert "100% of the limit" in circle[0].text
    assert intensity == 1


def test_half_the_limit_is_a_third_of_a_decade_below_the_roof():
    full, half = (
        drawn([group(bytes=3_350_000_000, flop=33_500_000_000, device_ns=ns), group()]) for ns in (10**6, 2 * 10**6)
    )
    y = [max(float(c.get("cy")) for c in tree.findall(f"{SVG}circle")) for tree in (full, half)]
    grid = sorted({
        float(line.get("points").split()[0].split(",")[1])
        for line in full.findall(f"{SVG}polyline")
        if len({point.split(",")[1] for point in line.get("points").split()}) == 1 and line.get("stroke") == "#dddddd"
    })  # fmt: skip
    assert (y[1] - y[0]) / (grid[1] - grid[0]) == pytest.approx(0.301, abs=0.01)


def test_the_timeline_covers_what_was_busy():
    """Two operations of 250 us each, one behind the other: each fills its half."""
    first = Group([record()], H100)
    second = Group([record(operation="sparse_decode", device_begin_ns=250_000)], H100)
    tree = drawn([first, second])
    bars: dict[str, list[tuple[float, float]]] = {}
    for bar in tree.findall(f"{SVG}rect"):
        if float(bar.get("width")) < 10 and float(bar.get("y")) > 100:
            bars.setdefault(bar.get("fill"), []).append((float(bar.get("x")), float(bar.get("width"))))
    spans = sorted((min(x for x, _ in of), max(x + w for x, w in of)) for of in bars.values())
    assert len(spans) == 2
    assert spans[0] == pytest.approx((70, 450), abs=4)
    assert spans[1] == pytest.approx((450, 830), abs=4)


def test_everything_lies_inside_the_picture():
    tree = drawn([group(20), group(5, operation="append_kv", flop=0), group(2, device_id=-1, device_time="none")])
    width, height = float(tree.get("width")), float(tree.get("height"))
    for shape in tree.iter():
        for names, limit in ((("x", "cx"), width), (("y", "cy"), height)):
            for name in names:
                if shape.get(name) is not None:
                    assert 0 <= float(shape.get(name)) <= limit


def test_names_are_escaped():
    tree = ET.fromstring(picture([group(kernel="<&>", dtype="<&>")], "a < b & 'c'"))
    assert tree.get("aria-label") == "a < b & 'c'"


def test_no_calls_at_all_are_a_picture_too():
    assert "no calls with FLOP" in picture([], "nothing")
