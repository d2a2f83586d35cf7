#!/usr/bin/env python3
"""Writes the tables of docs/performance.md and the plots beside it from the records in benchmarks/results.

A test compares them with the records, so a figure there is always one that was measured. Of the machines that have
records the page shows the one with the most; of several records of a case, the last.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import chart_grid  # noqa: E402
import chart_limits  # noqa: E402
import records  # noqa: E402
from performance_tables import SECTIONS, machine_of  # noqa: E402

RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "performance.md"
PLOTS = HERE.parent / "docs" / "plots"
APART = {  # by what a case is told from others
    "sparse_decode": lambda record: tuple(record["case"]),
    "sparse_grid": lambda record: tuple(record["case"]),
    "sparse_plans": lambda record: tuple(record["case"]),
    "writers": lambda record: (record["op"], record["kv_format"], record["rows"]),
}
CHARTS = {"dense_decode": ("time_over_limit.svg", chart_limits.draw), "grid": ("grid.svg", chart_grid.draw)}


def newest(folder: Path) -> dict[str, list[dict]]:
    """By benchmark: the last bf16 record of each case, of the machine that has the most records."""
    timed = [
        record
        for record in records.read(sorted(folder.glob("*.jsonl")))
        if "us" in record and "gpu" in record and record.get("dtype") == "bfloat16"
    ]
    if not timed:
        return {}
    counts = Counter(record["gpu"] for record in timed)
    machine = max(sorted(counts), key=counts.__getitem__)
    found: dict[str, dict[tuple, dict]] = {}
    for record in timed:
        if record["gpu"] == machine:
            cases = found.setdefault(record.get("benchmark", "dense_decode"), {})
            cases[tuple(record["case"])] = record
    made = {benchmark: list(cases.values()) for benchmark, cases in found.items()}
    return made | host_records(folder, machine) | records_apart(folder)


def records_apart(folder: Path) -> dict[str, list[dict]]:
    """Of benchmarks with figures of their own: the last record of each case, of the machine that has the most."""
    found: dict[str, list[dict]] = {}
    for benchmark, case in APART.items():
        timed = [r for r in records.read(sorted(folder.glob("*.jsonl"))) if r.get("benchmark") == benchmark]
        if timed:
            machine, _ = Counter(record["gpu"] for record in timed).most_common(1)[0]
            found[benchmark] = list({case(r): r for r in timed if r["gpu"] == machine}.values())
    return found


def host_records(folder: Path, machine: str) -> dict[str, list[dict]]:
    """The last record of each call's host time, on the GPU's host and on a machine without one."""
    hosts = {
        (record["device"], record["framework"], record["figure"]): record
        for record in records.read(sorted(folder.rglob("*.jsonl")))
        if record.get("benchmark") == "host" and record.get("gpu", machine) == machine and not record["library"]
    }
    return {"host": list(hosts.values())} if hosts else {}


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
        name: draw(made[benchmark], machine_of(made[benchmark]))
        for benchmark, (name, draw) in CHARTS.items()
        if benchmark in made
    }


def main() -> int:
    made = newest(RESULTS)
    PAGE.write_text(page(PAGE.read_text(), made))
    PLOTS.mkdir(exist_ok=True)
    for name, content in charts(made).items():
        (PLOTS / name).write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
