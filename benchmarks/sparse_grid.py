"""Times sparse_decode over a grid of shapes and formats beside the peers that do them, some fifth of a second a point.

    python benchmarks/sparse_grid.py [--record FILE] [--commit HASH] [--phases N] [--limit-seconds N] [--dry-run]

Points are those of sparse_grid_points.py, timed as sparse_decode.py does. The plan is made beforehand. A point where a
peer is faster is timed again, with more rounds; `first` in its record then holds what it lost with.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import records
import sparse_grid_points as grid

WRONG = 1e-2  # relative error beyond what bfloat16 roundings explain


def timed(graphs: dict, rounds: int) -> dict:
    """The fields of a record that come from the clock."""
    import timing

    median = timing.medians(timing.alternate(graphs, rounds))
    us = {name: round(us, 2) for name, us in median.items()}
    return {"us": us.pop("ours"), "peers": us, "rounds": rounds}


def measure(point: grid.Point, caches: dict) -> dict:
    import sparse_peers
    import timing
    from sparse_problem import Sparse, ours

    kv_format, b, s_q, h_q, topk, extra_topk = point
    extra = caches["extra"] if extra_topk else None
    p = Sparse(caches[kv_format], b, s_q, h_q, topk, extra, extra_topk, sink=bool(extra_topk))
    calls, out = ours(p)
    calls[0]()
    errors, graphs, failed = {"ours": p.error(out)}, {"ours": timing.Replays(calls, grid.TARGET_US)}, {}
    for name, peer in sparse_peers.ALL.items():
        try:
            found = peer(p)
            if found is not None:
                errors[name] = p.error(found[1]())
                graphs[name] = timing.Replays(found[0], grid.TARGET_US)
        except (RuntimeError, AssertionError) as error:  # a shape that this peer does not do
            failed[name] = str(error)[:200]
    made = timed(graphs, grid.ROUNDS)
    if records.loses(made):
        first = {"us": made["us"], "peers": made["peers"]}
        made = timed(graphs, grid.ROUNDS_AGAIN) | {"first": first}
    return made | {"rel_err": errors} | ({"peers_failed": failed} if failed else {})


def run(points: list[grid.Point], record: Path | None, commit: str, limit_seconds: float) -> None:
    start = time.monotonic()
    import torch
    from sparse_decode import EXTRA_CONTEXT
    from sparse_problem import CONTEXT, Cache

    facts = records.facts("sparse_grid", commit)
    counts: Counter[str] = Counter()
    caches: dict[str, Cache] = {}
    for point in points:
        if time.monotonic() - start + grid.seconds(point) > limit_seconds:
            break
        kv_format = point[0]
        if kv_format not in caches:
            caches.clear()
            torch.cuda.empty_cache()
            caches |= {kv_format: Cache(kv_format, 128 * CONTEXT), "extra": Cache(kv_format, EXTRA_CONTEXT)}
            print(f"{kv_format} from {time.monotonic() - start:.1f} s", flush=True)
        found = measure(point, caches)
        records.append(record, {**facts, "op": "sparse_decode", "case": list(point), **found})
        counts["points"] += 1
        if records.loses(found):
            counts["lost"] += 1
            print("lost:", *point, found["us"], found["peers"], flush=True)
        if not found["rel_err"]["ours"] < WRONG:
            counts["wrong"] += 1
            print("WRONG:", *point, found["rel_err"], flush=True)
    seconds = time.monotonic() - start
    print(f"{counts['points']} of {len(points)} points in {seconds:.0f} s,", end=" ")
    print(f"{counts['lost']} lost, {counts['wrong']} wrong", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--record", type=Path, help="append the records to this file")
    parser.add_argument("--commit", default="", help="of the sources, for the record")
    parser.add_argument("--phases", type=int, default=1, help=f"{grid.PHASES}ths of the grid")
    parser.add_argument("--limit-seconds", type=float, default=float("inf"), help="stop before this time is over")
    parser.add_argument("--dry-run", action="store_true", help="list the points and the seconds they take")
    args = parser.parse_args()
    points = grid.points(args.phases)
    if args.dry_run:
        for point in points:
            print(*point, f"{grid.seconds(point):.2f} s")
        print(f"{len(points)} points, about {sum(map(grid.seconds, points)):.0f} s")
    else:
        run(points, args.record, args.commit, args.limit_seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
