#!/usr/bin/env python3
"""Writes the tables of docs/performance.md and the plots beside it from the records in benchmarks/results.

A test compares them with the records, so a figure there is always one that was measured. The page shows every card that
has records, that of the last ones in full; of several records of a case, the last.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import chart_grid  # noqa: E402
import chart_limits  # noqa: E402
import records  # noqa: E402
from markdown_tables import by_card, card_of, machine_of, newest_card  # noqa: E402
from performance_tables import SECTIONS, plot_name  # noqa: E402

RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "performance.md"
PLOTS = HERE.parent / "docs" / "plots"
APART = {  # by what a case is told from others, where "case" does not suffice
    "writers": lambda record: (record["op"], record["kv_format"], record["rows"]),
    "quantised": lambda record: (*record["case"], record["way"]),
    "tuned": lambda record: (record["operation"], tuple(record["case"])),
    "host": lambda record: (record["device"], record["framework"], record["figure"]),
}
CHARTS = {"dense_decode": ("time_over_limit", chart_limits.draw), "grid": ("grid", chart_grid.draw)}


def is_shown(benchmark: str, record: dict) -> bool:
    """Whether a record is of a section, in bf16, on a GPU or of host times, and of no other build."""
    return (
        benchmark in SECTIONS
        and "us" in record
        and ("gpu" in record or benchmark == "host")
        and record.get("dtype", "bfloat16") == "bfloat16"
        and not record.get("library")
    )


def newest(folder: Path) -> dict[str, list[dict]]:
    """By benchmark: the last record of each case in bf16, of every card; host times are of one card and one machine
    without.
    """
    found: dict[str, dict[tuple, dict]] = {}
    for record in records.read(sorted(folder.rglob("*.jsonl"))):
        benchmark = record.get("benchmark", "dense_decode")
        if is_shown(benchmark, record):
            case = APART.get(benchmark, lambda record: tuple(record["case"]))(record)
            found.setdefault(benchmark, {})[record.get("gpu"), case] = record
    # Cases that say more than a shape come last.
    made = {
        benchmark: sorted(cases.values(), key=lambda record: len(record.get("case", ())))
        for benchmark, cases in found.items()
    }
    if "host" in made:
        on_gpus = [record for record in made["host"] if "gpu" in record]
        card = newest_card(on_gpus) if on_gpus else None
        made["host"] = [record for record in made["host"] if "gpu" not in record or card_of(record) == card]
    return made


def page(text: str, made: dict[str, list[dict]]) -> str:
    """The page with its sections, each between two markers, written anew."""
    for name, section in SECTIONS.items():
        lines = section(made[name]) if name in made else ["No record is committed yet."]
        begin, end = f"<!-- {name}: made by benchmarks/plots.py -->\n", f"<!-- end of {name} -->\n"
        inside = begin + "\n".join(lines) + "\n" + end
        text = re.sub(re.escape(begin) + ".*?" + re.escape(end), lambda _, new=inside: new, text, flags=re.DOTALL)
    return text


def charts(made: dict[str, list[dict]]) -> dict[str, str]:
    """The SVG files, by name."""
    return {
        plot_name(these, name): draw(these, machine_of(these))
        for benchmark, (name, draw) in CHARTS.items()
        if benchmark in made
        for these in by_card(made[benchmark]).values()
    }


def main() -> int:
    made = newest(RESULTS)
    PAGE.write_text(page(PAGE.read_text(), made))
    PLOTS.mkdir(exist_ok=True)
    drawn = charts(made)
    for path in PLOTS.glob("*.svg"):
        if path.name not in drawn:
            path.unlink()
    for name, content in drawn.items():
        (PLOTS / name).write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
