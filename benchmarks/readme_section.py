"""The performance section of README.md from the records in benchmarks/results.

`python benchmarks/readme_section.py` writes it.

A test compares the section with the records, so a figure in the README is always one that was measured.
"""

import json
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
BEGIN = "<!-- performance: made by benchmarks/readme_section.py -->\n"
END = "<!-- end of performance -->\n"


def gpu_records() -> list[dict]:
    """One record a (GPU, operation, case, dtype): the last one written."""
    newest = {}
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if "gpu" in record and "us" in record:
                key = (record["gpu"], record["op"], record.get("dtype"), tuple(record["case"]))
                newest[key] = record
    return list(newest.values())


def table_row(*cells: str) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def section(records: list[dict]) -> str:
    """Markdown between the two markers."""
    if not records:
        return "No GPU record is committed yet; `benchmarks/` makes one.\n"
    lines = []
    for gpu in sorted({record["gpu"] for record in records}):
        of_gpu = [record for record in records if record["gpu"] == gpu]
        peers = sorted({name for record in of_gpu for name in record["peers"]})
        drivers = ", ".join(sorted({str(record["driver"]) for record in of_gpu}))
        lines += [
            f"{gpu}, driver {drivers}. Microseconds: median of CUDA-graph replays over caches larger than L2;",
            "*cold* is one call after L2 was flushed, launch included. *limit*: the larger of KV bytes / measured read",
            "bandwidth and FLOP / measured bf16 rate. Peers ran in the same process.",
            "",
            table_row("operation", "batch, s_q, h_q, tokens", "us", *peers, "limit", "limit / us", "cold", "error"),
            "|---" * (7 + len(peers)) + "|",
        ]
        for record in of_gpu:
            lines.append(
                table_row(
                    f"`{record['op']}` {record.get('dtype', '')}".rstrip(),
                    ", ".join(map(str, record["case"])),
                    f"{record['us']:.1f}",
                    *(f"{record['peers'][peer]:.1f}" if peer in record["peers"] else "-" for peer in peers),
                    f"{record['limit_us']:.1f}",
                    f"{record['limit_us'] / record['us']:.2f}",
                    f"{record['us_cold']:.1f}",
                    f"{record['rel_err']:.1e}",
                )
            )
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def parts(readme: str) -> tuple[str, str, str]:
    """The README before, in and after the section."""
    before, rest = readme.split(BEGIN)
    inside, after = rest.split(END)
    return before, inside, after


if __name__ == "__main__":
    before, _, after = parts(README.read_text())
    README.write_text(before + BEGIN + section(gpu_records()) + END + after)
