#!/usr/bin/env python3
"""Times dense_decode over quantised caches beside a peer's kernel for such a cache, and measures the error of each.

Replays as those of dense_decode.py: plans made beforehand, alternating rounds, contenders of a case in the same ones.
Keys are N(0, 1/4) where calls are timed; errors are of all of MEANS. With "fp8" q holds numbers that are codes, so that
each way of computing, and the peer, attends the same. A record is one JSON object a line:
  case              [format, batch, s_q, h_q, tokens]
  way               dtype of q and `compute`
  us spread peers   as in dense_decode.py, and rounds_us, behind WARM_ROUNDS
  limit_us          max(KV bytes / read bandwidth, FLOP / rate of an 8192^3 product of such numbers)
  rel_err           {mean of the keys: ||out - ref|| / ||ref||} against float64 over the tokens as dequantised
  peers_rel_err     {peer: likewise}
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "bindings" / "python"), str(HERE)]

import dense_errors  # noqa: E402
import goals  # noqa: E402
import peer_libraries  # noqa: E402
import records  # noqa: E402
import timing  # noqa: E402
import torch  # noqa: E402
from caches import PAGE_SIZE, Cache  # noqa: E402
from contenders import Ours  # noqa: E402
from problem import TABLE_PAGES, Problem  # noqa: E402

if TYPE_CHECKING:
    from limits import Ceilings

CASES = (
    *(goal.case for goal in goals.QUANTISED),
    ("v32", 128, 1, 128, 4096),
    ("v32_nope", 128, 1, 64, 4096),
    ("v32_nope", 128, 1, 128, 4096),
)
MEANS = (0.0, 0.25, 1.0)
# Of q and `compute`; what they are called in records
WAYS = {"bfloat16": ("bfloat16", "default"), "codes": ("codes", "default"), "codes, fp8": ("codes", "fp8")}


def problem_of(case: tuple, cache: Cache) -> Problem:
    _, b, s_q, h_q, tokens = case
    p = Problem([tokens] * b, s_q, h_q, cache)
    if cache.kv_format == "fp8":
        p.q = p.q.to(torch.float8_e4m3fn).to(p.dtype)
    return p


def ways_of(p: Problem) -> dict[str, Ours]:
    """Calls of every way that the format has."""
    q = {"bfloat16": p.q}
    if p.kv_format == "fp8":
        q["codes"] = p.q.to(torch.float8_e4m3fn).view(torch.uint8)
    return {way: Ours(p, q=q[form], compute=compute) for way, (form, compute) in WAYS.items() if form in q}


def peers_of(p: Problem) -> dict[str, peer_libraries.Calls]:
    made = {name: make(p) for name, make in peer_libraries.ALL.items()}
    return {name: calls for name, calls in made.items() if calls}


def errors(p: Problem) -> dict[str, float]:
    """Of every way and peer, by name."""
    results = {}
    for way, ours in ways_of(p).items():
        ours.calls[0]()
        results[way] = ours.results
    for name, calls in peers_of(p).items():
        results[name] = calls[0]()
    found = dense_errors.errors(p, [(out.view(*p.q.shape[:3], -1), lse) for out, lse in results.values()])
    return {name: float(f"{error:.3g}") for name, (error, _) in zip(results, found, strict=True)}


def times(p: Problem, rounds: int, ceilings: dict[str, Ceilings]) -> list[dict]:
    """A record's fields for every way."""
    ways, peers = ways_of(p), peers_of(p)
    calls = {way: ours.calls for way, ours in ways.items()} | peers
    graphs = {name: timing.Replays(each) for name, each in calls.items()}
    timing.alternate(graphs, timing.WARM_ROUNDS)
    found = timing.alternate(graphs, rounds)
    median = timing.medians(found)
    return [
        {
            "way": way,
            "us": round(median[way], 2),
            "spread": round(timing.spread(found[way]), 4),
            "limit_us": ceilings[WAYS[way][1]].us(p),
            "peers": {name: round(median[name], 2) for name in peers},
            "rounds_us": {name: [round(us, 2) for us in found[name]] for name in (way, *peers)},
        }
        for way in ways
    ]


def measure(kv_format: str, cases: list[tuple], rounds: int, ceilings: dict[str, Ceilings]) -> Iterator[dict]:
    """A record's fields for every case of a format and every way."""
    tokens = max(TABLE_PAGES * PAGE_SIZE, *(b * tokens for _, b, _, _, tokens in cases))
    wrong: dict[tuple, dict[str, dict[str, float]]] = {case: {} for case in cases}
    for mean in MEANS:
        cache = Cache(kv_format, tokens, mean)
        for case in cases:
            for name, error in errors(problem_of(case, cache)).items():
                wrong[case].setdefault(name, {})[f"{mean:g}"] = error
    cache = Cache(kv_format, tokens)
    for case in cases:
        for found in times(problem_of(case, cache), rounds, ceilings):
            of_peers = {name: wrong[case][name] for name in found["peers"]}
            yield {"case": list(case), "rel_err": wrong[case][found["way"]], "peers_rel_err": of_peers} | found


def line(record: dict) -> str:
    cells = [f"{', '.join(map(str, record['case'])):28} q {record['way']:10} {record['us']:8.1f} us"]
    cells += [f"limit {record['limit_us']:.1f}", *(f"{name} {us:.1f}" for name, us in record["peers"].items())]
    cells += ["errors", *(f"{error:.1e}" for error in record["rel_err"].values())]
    for name, by_mean in record["peers_rel_err"].items():
        cells += [name, *(f"{error:.1e}" for error in by_mean.values())]
    verdict = goals.quantised_verdict(record)
    return " ".join([*cells, *([f"goal: {verdict}"] if verdict else [])])


def case_of(text: str) -> tuple:
    """FORMAT,b,s_q,h_q,tokens"""
    name, *numbers = text.split(",")
    return (name, *map(int, numbers))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--record", type=Path, help="append the records to this file")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--commit", default="", help="of the sources, for the record")
    parser.add_argument("--case", action="append", type=case_of, help="FORMAT,b,s_q,h_q,tokens")
    args = parser.parse_args()
    import limits

    measured = limits.measured()
    ceilings = {"default": measured, "fp8": replace(measured, rate=limits.code_rate())}
    facts = records.facts("quantised", args.commit) | measured.facts()
    facts |= {"op": "dense_decode", "code_product_tflops": ceilings["fp8"].facts()["product_tflops"]}
    print(facts, flush=True)
    cases = args.case or CASES
    for kv_format in dict.fromkeys(case[0] for case in cases):
        for found in measure(kv_format, [case for case in cases if case[0] == kv_format], args.rounds, ceilings):
            print(line(facts | found), flush=True)
            records.append(args.record, facts | found)
        torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
