"""The performance section of README.md from the records in benchmarks/results.

`python benchmarks/readme_section.py` writes it. A test compares the section with the records, so a figure in the README
is always one that was measured; only the sentence that sources have moved on since depends on the tree.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import provenance

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
BEGIN = "<!-- performance: made by benchmarks/readme_section.py -->\n"
END = "<!-- end of performance -->\n"


def machine_of(record: dict) -> str:
    """What the records of one table have in common; '' for a record that is no timing of a benchmark case."""
    if "us" not in record or record.get("benchmark", "dense_decode") != "dense_decode":
        return ""
    if "gpu" in record:
        return f"{record['gpu']}, driver {record['driver']}"
    threads = "1 thread" if record["threads"] == 1 else f"{record['threads']} threads"
    return f"{record['cpu']}, {threads}, {record['isa']}"


def read_records(folder: pathlib.Path) -> dict[str, list[dict]]:
    """By machine: the last record of each operation, dtype and case."""
    newest: dict[str, dict[tuple, dict]] = {}
    for path in sorted(folder.rglob("*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if machine := machine_of(record):
                key = (record["op"], record.get("dtype"), tuple(record["case"]))
                newest.setdefault(machine, {})[key] = record
    tables = {machine: list(records.values()) for machine, records in newest.items()}
    return dict(sorted(tables.items(), key=lambda item: "gpu" not in item[1][0]))  # GPUs first


def table_row(*cells: str) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def table(records: list[dict]) -> list[str]:
    """A line a record. Only GPU records know a limit and a cold call, only CPU records the machine's rates."""
    on_gpu = "gpu" in records[0]
    rated = all("product_gflops" in record for record in records)
    peers = sorted({name for record in records for name in record["peers"]})
    names = ["operation", "batch, s_q, h_q, tokens", "us", *peers, *(["limit", "limit / us", "cold"] if on_gpu else [])]
    names += ["of rate", "of bandwidth"] if rated else []
    lines = [table_row(*names, "error"), "|---" * (len(names) + 1) + "|"]
    for record in records:
        cells = [
            f"`{record['op']}` {record.get('dtype', '')}".rstrip(),
            ", ".join(map(str, record["case"])),
            f"{record['us']:.1f}",
            *(f"{record['peers'][peer]:.1f}" if peer in record["peers"] else "-" for peer in peers),
        ]
        if on_gpu:
            share = record["limit_us"] / record["us"]
            cells += [f"{record['limit_us']:.1f}", f"{share:.2f}", f"{record['us_cold']:.1f}"]
        if rated:
            rate, bandwidth = record["gflops"] / record["product_gflops"], record["gbs"] / record["read_gbs"]
            cells += [f"{rate:.2f}", f"{bandwidth:.2f}"]
        lines.append(table_row(*cells, f"{record['rel_err']:.1e}"))
    return lines


def section(by_machine: dict[str, list[dict]]) -> str:
    """Markdown between the two markers."""
    if not by_machine:
        return "No record is committed yet; `benchmarks/` makes them.\n"
    lines = [
        "Median microseconds a call; peers ran in the same process. *error*: ||out - ref|| / ||ref|| against float64."
    ]
    if any("gpu" in records[0] for records in by_machine.values()):
        lines += [
            "On GPUs: CUDA-graph replays over caches larger than L2; *cold*: single calls after L2 was flushed, launch",
            "included; *limit*: the larger of KV bytes / read bandwidth and FLOP / bf16 rate, measured in that run.",
        ]
    if any("product_gflops" in record for records in by_machine.values() for record in records):
        lines += [
            "On CPUs *of rate* and *of bandwidth* are shares of the rate of a 2048^3 bf16 product in PyTorch and of",
            "the bandwidth of reads from memory, measured in that run.",
        ]
    for machine, records in by_machine.items():
        first, *rest = provenance.lines(records)
        lines += ["", f"{machine}. {first}", *rest, "", *table(records)]
    return "\n".join(lines) + "\n"


def current() -> str:
    """The section that the committed records make."""
    return section(read_records(RESULTS))


def parts(readme: str) -> tuple[str, str, str]:
    """The README before, in and after the section."""
    before, rest = readme.split(BEGIN)
    inside, after = rest.split(END)
    return before, inside, after


if __name__ == "__main__":
    before, _, after = parts(README.read_text())
    README.write_text(before + BEGIN + current() + END + after)
