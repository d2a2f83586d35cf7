#!/usr/bin/env python3
"""Times dense_decode on a GPU beside the peers that are installed, checks it against float64, and records the figures.

Replays of CUDA graphs, back to back, rotating over block tables into more KV than L2 holds; a plan is made beforehand,
as the layers of a decode step share it, and combine is included. Contenders alternate round by round in one process.
A record is one JSON object a line:
  benchmark gpu driver commit digest   the program, the machine and the kernels
  op dtype case        [batch, s_q, h_q, tokens]; with "varlen" lengths are drawn from N(tokens, tokens / 2), with
                       "tenth" q and KV are N(0, 1) / 10, which takes far less power, with "page1" pages have one token
  us spread rounds_us  median of a call; (max - min) / median of the rounds; {contender: every round}
  us_cold              median of single calls after L2 was flushed, launch included
  us_planned           with a plan made in every call
  peers peers_cold peers_planned   {name: us} likewise, from the same rounds; peers_planned: metadata made in every call
  builds kernels       {name: us} of the builds given by --library, of the kernels forced by --kernel
  limit_us             max(KV bytes / read bandwidth, FLOP / rate of a spaced 8192^3 bf16 product), of this run
  host_us              host time of asynchronous calls on a tiny problem, {what: us}
  rel_err lse_err      ||out - ref|| / ||ref|| over the whole output, largest error of lse; against float64
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "bindings" / "python"), str(HERE)]

import dense_errors  # noqa: E402
import goals  # noqa: E402
import limits  # noqa: E402
import peer_libraries  # noqa: E402
import records  # noqa: E402
import timing  # noqa: E402
import torch  # noqa: E402
from builds import another_build, named  # noqa: E402
from contenders import Calls, Ours, forced  # noqa: E402
from problem import PAGE, TABLE_PAGES, Pool, Problem  # noqa: E402

import flashmla  # noqa: E402

# batch, s_q, h_q, tokens[, "varlen", "tenth", or "page" and the tokens of one]
CASES = (*(goal.case for goal in goals.GOALS), (128, 2, 128, 32768, "tenth"))


def problem_of(case: tuple, pool: Pool) -> Problem:
    b, s_q, h_q, tokens, *kind = case
    lengths = [tokens] * b
    if "varlen" in kind:
        drawn = random.Random(tokens * 1000 + b * 10 + s_q)
        lengths = [max(int(drawn.normalvariate(tokens, tokens / 2)), s_q) for _ in range(b)]
    sigma = 0.1 if "tenth" in kind else 1.0
    pool.fill(sigma)
    page = next((int(word.removeprefix("page")) for word in kind if word.startswith("page")), PAGE)
    return Problem(lengths, s_q, h_q, pool, sigma=sigma, page=page)


def pages_of(case: tuple) -> int:
    """Of the pool, at least. Drawn lengths stay below twice their mean together."""
    b, _, _, tokens, *kind = case
    return b * -(-tokens // PAGE) * (2 if "varlen" in kind else 1)


def host_costs(pool: Pool) -> dict:
    """Host microseconds of asynchronous calls on a problem so small that the device keeps up."""
    p = Problem([64], 1, 16, pool)
    args = (p.q, p.kv_cache, p.tables[0], p.cache_seqlens)
    found = {
        "planned, all buffers given": Ours(p).calls[0],
        "nothing given": lambda: flashmla.dense_decode(*args),
        "plan_decode": lambda: flashmla.plan_decode(*args),
    }
    found |= {name: calls[0] for name, calls in peer_calls(p).items()}
    for call in found.values():
        call()
    return {name: round(timing.host_us(call), 2) for name, call in found.items()}


def peer_calls(p: Problem, *, fresh: bool = False) -> dict[str, Calls]:
    """Of the peers that are installed."""
    made = {name: make(p, fresh=fresh) for name, make in peer_libraries.ALL.items()}
    return {name: calls for name, calls in made.items() if calls}


def measure(
    p: Problem, rounds: int, ceilings: limits.Ceilings, builds: dict[str, ModuleType], kernels: list[str]
) -> dict:
    ours = Ours(p)
    ours.calls[0]()
    ((rel_err, lse_err),) = dense_errors.errors(p, [ours.results])
    groups = {
        "": {"ours": ours.calls, "planned": Ours(p, own_plan=True).calls},
        "peers": peer_calls(p),
        "peers_planned": peer_calls(p, fresh=True),
        "builds": {name: Ours(p, package).calls for name, package in builds.items()},
        "kernels": {name: calls for name in kernels if (calls := forced(p, name))},
    }
    contenders = {(group, name): calls for group, members in groups.items() for name, calls in members.items()}
    graphs = {key: timing.Replays(calls) for key, calls in contenders.items()}
    cold = {key: timing.cold_us(calls) for key, calls in contenders.items() if key[0] in {"", "peers"}}
    times = timing.alternate(graphs, rounds)
    median = timing.medians(times)

    def of(group: str, values: dict[tuple[str, str], float]) -> dict[str, float]:
        return {name: round(value, 2) for (where, name), value in values.items() if where == group}

    us = median["", "ours"]
    found = {
        "us": round(us, 2),
        "us_cold": round(cold["", "ours"], 2),
        "us_planned": round(median["", "planned"], 2),
        "spread": round(timing.spread(times["", "ours"]), 4),
        "limit_us": ceilings.us(p),
        "peers": of("peers", median),
        "peers_cold": of("peers", cold),
        "peers_planned": of("peers_planned", median),
        "rounds_us": {
            name: [round(value, 2) for value in times[group, name]]
            for group, name in times
            if group in {"peers", "builds"} or name == "ours"
        },
        "rel_err": float(f"{rel_err:.3g}"),
        "lse_err": float(f"{lse_err:.3g}"),
        "gbs": round(p.kv_bytes / us / 1e3, 1),
        "tflops": round(p.flop / us / 1e6, 1),
    }
    return found | {group: of(group, median) for group in ("builds", "kernels") if groups[group]}


def line(record: dict) -> str:
    """A record for people: times, peers, and whether the case reaches its goal."""
    cells = [
        f"{', '.join(map(str, record['case'])):32} {record['us']:8.1f} us",
        f"(plan {record['us_planned'] - record['us']:+.1f}, cold {record['us_cold']:.1f})",
        f"limit {record['limit_us']:.1f}",
        *(f"{name} {us:.1f}" for name, us in record["peers"].items()),
        *(f"{name} {us:.1f}" for group in ("builds", "kernels") for name, us in record.get(group, {}).items()),
        f"error {record['rel_err']:.1e}",
    ]
    goal, verdict = goals.goal_of(tuple(record["case"])), goals.case_verdict(record)
    if goal and verdict:
        ratio = record["us"] / record["peers"]["flashmla"]
        cells.append(f"/ flashmla {ratio:.3f}, goal {goal.ratio:.3f}: {verdict}")
    return " ".join(cells)


def case_of(text: str) -> tuple:
    """b,s_q,h_q,tokens[,kind]"""
    return tuple(int(x) if x.isdigit() else x for x in text.split(","))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--record", type=Path, help="append the records to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--commit", default="", help="of the sources, for the record")
    parser.add_argument("--case", action="append", type=case_of, help="b,s_q,h_q,tokens[,varlen or tenth or page1]")
    parser.add_argument("--dtype", choices=["bfloat16", "float16"], default="bfloat16")
    parser.add_argument(
        "--library", action="append", type=named, default=[], metavar="NAME=PATH",
        help="another build of libflashmla.so to time in the same rounds",
    )  # fmt: skip
    parser.add_argument(
        "--kernel", action="append", default=[], help="a kernel to force and time in the same rounds, by its name"
    )
    args = parser.parse_args()
    cases = args.case or CASES
    builds = {name: another_build(path) for name, path in args.library}
    ceilings = limits.measured()
    facts = records.facts("dense_decode", args.commit) | ceilings.facts()
    print(facts, flush=True)
    pool = Pool(max(TABLE_PAGES, *map(pages_of, cases)), getattr(torch, args.dtype))
    if costs := host_costs(pool) if args.dtype == "bfloat16" else {}:
        facts["host_us"] = costs
        print("host us of a call:", costs, flush=True)
    for case in cases:
        found = measure(problem_of(case, pool), args.rounds, ceilings, builds, args.kernel)
        record = {**facts, "op": "dense_decode", "dtype": args.dtype, "case": list(case), **found}
        print(line(record), flush=True)
        records.append(args.record, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
