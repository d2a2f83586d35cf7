#!/usr/bin/env python3
"""Times decode calls with a tuning file and without, in alternating rounds of one process, and records both.

    python benchmarks/tuned.py FILE [--record FILE] [--commit HASH] [--rounds N]

The shapes are those of dense_decode.py and sparse_decode.py and a few MORE: problems are theirs, not those that the
tuner measured. A plan is made beforehand. A record is one JSON object a line:
  operation    dense_decode or sparse_decode; case: as in the records of those programs
  us rule_us   median of a call with the file and without
  rounds_us    every round of both, behind WARM_ROUNDS, in either order of making
  ratio        median of the ratios of the same rounds: power and clocks drift, so only neighbours compare
  tuned        whether the file has an entry for the shape
  kernels parts num_splits   of the call, with the file and without
  rel_err      with the file, as theirs
A shape gains or loses where the ratio differs from 1 by more than what counts as equal (records.EQUAL).
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "bindings" / "python"), str(HERE)]

import dense_decode  # noqa: E402
import dense_errors  # noqa: E402
import goals  # noqa: E402
import records  # noqa: E402
import sparse_decode  # noqa: E402
import timing  # noqa: E402
import torch  # noqa: E402
from contenders import Ours  # noqa: E402
from problem import TABLE_PAGES, Pool  # noqa: E402
from sparse_problem import CONTEXT, Cache, Sparse, ours  # noqa: E402

import flashmla  # noqa: E402

REPLAY_US = 6000.0
MORE = ((1, 1, 128, 2048), (2, 1, 128, 2048), (4, 1, 128, 2048), (256, 1, 16, 1024))


def calls_of(make, path: Path | None):
    """What `make` gives with that file loaded, and the record of its call."""
    flashmla.load_tuning(path)
    with flashmla.profile() as report:
        calls, out = make()
        calls[0]()
    torch.cuda.synchronize()
    return calls, out, report.records[-1]


def measure(make, error, path: Path, rounds: int) -> dict:
    """`error`: of the output of a first call. Half of the rounds are of calls made the other way round: what is made
    first has other addresses, and the same kernel with the same schedule has differed by 3 % for that alone.
    """
    ways = {"rule": None, "tuned": path}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for order in (tuple(ways), tuple(ways)[::-1]):
        made = {name: calls_of(make, ways[name]) for name in order}
        graphs = {name: timing.Replays(calls, REPLAY_US) for name, (calls, _, _) in made.items()}
        timing.alternate(graphs, timing.WARM_ROUNDS)
        for name, found in timing.alternate(graphs, rounds).items():
            times[name] += found
    calls, out, record = made["tuned"]
    calls[0]()
    ratios = [tuned / rule for tuned, rule in zip(times["tuned"], times["rule"], strict=True)]
    median = timing.medians(times)
    return {
        "us": round(median["tuned"], 2),
        "rule_us": round(median["rule"], 2),
        "ratio": round(statistics.median(ratios), 4),
        "rounds_us": {name: [round(us, 2) for us in values] for name, values in times.items()},
        "rel_err": float(f"{error(out):.3g}"),
        "tuned": "tuned" in record["flags"],
        "kernels": {name: record["kernel"] for name, (_, _, record) in made.items()},
        "parts": {name: record["parts"] for name, (_, _, record) in made.items()},
        "num_splits": {name: record["num_splits"] for name, (_, _, record) in made.items()},
    }


def dense(case: tuple, pool: Pool, path: Path, rounds: int) -> dict:
    p = dense_decode.problem_of(case, pool)

    def make():
        made = Ours(p)
        return made.calls, made

    return measure(make, lambda made: dense_errors.errors(p, [made.results])[0][0], path, rounds)


def sparse(case: tuple, caches: dict[str, Cache], path: Path, rounds: int) -> dict:
    kv_format, b, s_q, h_q, topk, extra_topk = case
    extra = Cache(kv_format, sparse_decode.EXTRA_CONTEXT) if extra_topk else None
    p = Sparse(caches[kv_format], b, s_q, h_q, topk, extra, extra_topk, sink=bool(extra_topk))
    return measure(lambda: ours(p), p.error, path, rounds)


def line(record: dict) -> str:
    ratio, verdict = record["ratio"], goals.tuned_verdict(record)
    choice = f"{record['kernels']['tuned']}, splits {record['num_splits']['tuned']}" if record["tuned"] else "no entry"
    case = ", ".join(map(str, record["case"]))
    times = f"{record['rule_us']:8.1f} -> {record['us']:8.1f} us"
    return f"{record['operation']:13} {case:32} {times}  {ratio:.3f} {verdict}  error {record['rel_err']:.1e}  {choice}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("file", type=Path, help="that `python -m flashmla tune` wrote on this machine")
    parser.add_argument("--record", type=Path, help="append the records to this file")
    parser.add_argument("--rounds", type=int, default=5, help="of either order (default 5)")
    parser.add_argument("--commit", default="", help="of the sources, for the record")
    args = parser.parse_args()
    facts = records.facts("tuned", args.commit)
    print(facts, flush=True)
    made = []

    def add(operation: str, case: tuple, found: dict) -> None:
        made.append({**facts, "operation": operation, "case": list(case), **found})
        print(line(made[-1]), flush=True)
        records.append(args.record, made[-1])

    pool = Pool(max(TABLE_PAGES, *map(dense_decode.pages_of, dense_decode.CASES)))
    for case in (*dense_decode.CASES, *MORE):
        add("dense_decode", case, dense(case, pool, args.file, args.rounds))
    del pool
    caches: dict[str, Cache] = {}
    for case in sparse_decode.GOALS:
        if case[0] not in caches:
            caches.clear()
            torch.cuda.empty_cache()
            caches[case[0]] = Cache(case[0], 128 * CONTEXT)
        add("sparse_decode", case, sparse(case, caches, args.file, args.rounds))
    verdicts = [goals.tuned_verdict(record) for record in made]
    gained, lost = verdicts.count("gains"), verdicts.count("loses")
    ratios = [record["ratio"] for record in made]
    print(f"{len(made)} shapes: {gained} gain, {lost} lose, the others keep; best {min(ratios):.3f}, "
          f"worst {max(ratios):.3f}")  # fmt: skip
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
