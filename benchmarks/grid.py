#!/usr/bin/env python3
"""Times dense_decode over a wide grid of shapes beside the peers that are installed, some quarter of a second a point.

Points are those of grid_points.py. Short graph replays in a few alternating rounds; the plan is reused and combine
included; outputs are compared with FlashMLA's. A point where a peer is faster is timed again. Points that --record or
--done holds for these kernels are skipped, so that a run that ended early is continued by the same command.
A record is one JSON object a line, with the fields of dense_decode.py and
  max_diff rel_diff   largest |ours - FlashMLA's|; ||ours - FlashMLA's|| / ||FlashMLA's||
  rounds first        rounds of the medians; what a point that was timed again had shown before: {us, peers}
  peers_failed        {name: error} of peers that cannot do the shape
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "bindings" / "python"), str(HERE)]

import digest  # noqa: E402
import grid_points  # noqa: E402
import records  # noqa: E402

DIFFERENT = 1e-2  # rel_diff beyond what bfloat16 roundings explain


def one_of(text: str) -> tuple[int, int]:
    """i/n, i counted from 0."""
    index, count = map(int, text.split("/"))
    if not 0 <= index < count:
        raise argparse.ArgumentTypeError(f"{text}: i/n with 0 <= i < n is needed")
    return index, count


def left_to_do(points: list[grid_points.Point], done: list[Path]) -> list[grid_points.Point]:
    """Without those that were recorded with these kernels."""
    here = digest.current() or "none"
    held = {tuple(r["case"]) for r in records.read(done) if r.get("benchmark") == "grid" and r["digest"] == here}
    return [point for point in points if point not in held]


def run(points: list[grid_points.Point], record: Path | None, commit: str, limit_seconds: float) -> None:
    start = time.monotonic()
    import limits
    import torch
    from measure import quick
    from problem import TABLE_PAGES, Pool, Problem

    ceilings = limits.measured()
    facts = records.facts("grid", commit) | ceilings.facts()
    print(facts, f"ready after {time.monotonic() - start:.1f} s", flush=True)
    pool = Pool(max(TABLE_PAGES, *(b * -(-tokens // 64) for b, _, _, tokens in points)))
    counts: Counter[str] = Counter()
    for point in points:
        if time.monotonic() - start + grid_points.seconds(point) > limit_seconds:
            break
        b, s_q, h_q, tokens = point
        p = Problem([tokens] * b, s_q, h_q, pool, least_tables=1 if b * tokens > 1 << 21 else 2)
        found = quick(
            p,
            ceilings,
            target_us=grid_points.TARGET_US,
            rounds=grid_points.ROUNDS,
            rounds_again=grid_points.ROUNDS_AGAIN,
        )
        records.append(record, {**facts, "op": "dense_decode", "dtype": "bfloat16", "case": list(point), **found})
        counts["points"] += 1
        if records.loses(found):
            counts["lost"] += 1
            print("lost:", point, found["us"], found["peers"], f"limit {found['limit_us']}", flush=True)
        if not found.get("rel_diff", 0.0) < DIFFERENT:
            counts["different"] += 1
            print("DIFFERENT from FlashMLA:", point, found["rel_diff"], flush=True)
    torch.cuda.synchronize()
    seconds = time.monotonic() - start
    print(
        f"{counts['points']} of {len(points)} points in {seconds:.0f} s, {counts['lost']} lost,",
        f"{counts['different']} different",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--record", type=Path, help="append the records to this file")
    parser.add_argument("--done", type=Path, action="append", default=[], help="records of earlier runs")
    parser.add_argument("--phases", type=int, default=2, help=f"fifths of the grid, 1 to {grid_points.PHASES}")
    parser.add_argument("--shard", type=one_of, default=(0, 1), metavar="I/N", help="every N-th point from the I-th")
    parser.add_argument("--limit-seconds", type=float, default=float("inf"), help="stop before this time is over")
    parser.add_argument("--commit", default="", help="of the sources, for the record")
    parser.add_argument("--dry-run", action="store_true", help="list the points and the seconds they take")
    args = parser.parse_args()
    points = grid_points.shard(grid_points.points(args.phases), *args.shard)
    points = left_to_do(points, args.done + ([args.record] if args.record else []))
    if args.dry_run:
        for point in points:
            print(*point, f"{grid_points.seconds(point):.2f} s")
        print(f"{len(points)} points, about {sum(map(grid_points.seconds, points)):.0f} s")
    elif points:
        run(points, args.record, args.commit, args.limit_seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
