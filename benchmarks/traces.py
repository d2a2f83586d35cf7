#!/usr/bin/env python3
"""Times dense_decode on batches with the lengths of a production trace, beside the peers that are installed.

The batches are the snapshots of data/trace_lengths.json (see data/README.md) or of traces given with --csv. A record is
one JSON object a line, with the fields of grid.py; case is [trace, concurrent, requests entered, s_q, h_q].
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "bindings" / "python"), str(HERE)]

import goals  # noqa: E402
import records  # noqa: E402
import trace_replay  # noqa: E402

S_Q, H_Q = (1, 2), (16, 128)
TARGET_US, ROUNDS, ROUNDS_AGAIN = 5000.0, 5, 7
SECONDS = 0.35  # of a measurement, about


def run(snapshots: list[dict], record: Path | None, commit: str) -> None:
    import limits
    from measure import quick
    from problem import PAGE, TABLE_PAGES, Pool, Problem

    ceilings = limits.measured()
    facts = records.facts("traces", commit) | ceilings.facts()
    print(facts, flush=True)
    pool = Pool(max(TABLE_PAGES, *(sum(-(-n // PAGE) for n in snapshot["lengths"]) for snapshot in snapshots)))
    for snapshot in snapshots:
        for s_q in S_Q:
            for h_q in H_Q:
                p = Problem(snapshot["lengths"], s_q, h_q, pool)
                found = quick(p, ceilings, target_us=TARGET_US, rounds=ROUNDS, rounds_again=ROUNDS_AGAIN)
                case = [snapshot["trace"], snapshot["concurrent"], snapshot["requests_entered"], s_q, h_q]
                made = {**facts, "op": "dense_decode", "dtype": "bfloat16", "case": case, **found}
                records.append(record, made)
                others = " ".join(f"{name} {us:.1f}" for name, us in found["peers"].items())
                over = found["us"] / found["limit_us"]
                print(
                    f"{', '.join(map(str, case)):28} {found['us']:7.1f} us {others} / limit {over:.2f}",
                    f"{goals.trace_verdict(made)}",
                    flush=True,
                )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--csv", action="append", default=[], metavar="NAME=PATH", help="a trace to replay instead")
    parser.add_argument("--record", type=Path, help="append the records to this file")
    parser.add_argument("--commit", default="", help="of the sources, for the record")
    parser.add_argument("--dry-run", action="store_true", help="list the snapshots and the seconds they take")
    args = parser.parse_args()
    if args.csv:
        traces = {name: Path(path) for name, path in (text.split("=", 1) for text in args.csv)}
        snapshots = trace_replay.snapshots_of(traces)
    else:
        snapshots = json.loads(trace_replay.SNAPSHOTS_FILE.read_text())
    if args.dry_run:
        for s in snapshots:
            lengths = s["lengths"]
            mean = sum(lengths) / len(lengths)
            print(s["trace"], s["concurrent"], s["requests_entered"], f"{min(lengths)}-{max(lengths)}, mean {mean:.0f}")
        print(f"about {time_needed(len(snapshots)):.0f} s")
    else:
        start = time.monotonic()
        run(snapshots, args.record, args.commit)
        print(f"{time.monotonic() - start:.0f} s", flush=True)
    return 0


def time_needed(snapshots: int) -> float:
    """Seconds."""
    return snapshots * len(S_Q) * len(H_Q) * SECONDS


if __name__ == "__main__":
    sys.exit(main())
