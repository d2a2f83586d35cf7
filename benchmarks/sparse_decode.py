"""sparse_decode beside other libraries: time of a call in CUDA graphs, in alternating rounds, and the error of each.

    python benchmarks/sparse_decode.py [--record FILE] [--commit HASH] [--rounds N]
                                       [--case FORMAT,B,S_Q,H_Q,TOPK[,EXTRA]] [--own-plans]

A query token selects random distinct tokens of its request, which has 32,768; calls rotate over several selections. A
plan is made beforehand, as the layers of a step share it; with --own-plans every call makes its schedule.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import records
import sparse_peers
import timing
import torch
from sparse_problem import CONTEXT, Cache, Sparse, ours

# Format, batch, s_q, h_q, topk, tokens of the extra cache (which comes with a sink) -> microseconds that are the goal
GOALS = {
    ("v32", 128, 1, 128, 2048, 0): 122, ("v32", 128, 1, 64, 2048, 0): 84, ("v32", 128, 2, 128, 2048, 0): 245,
    ("v32", 64, 1, 64, 2048, 0): 46, ("v32", 2, 1, 128, 2048, 0): 11, ("v32", 2, 1, 64, 2048, 0): 11,
    ("v32", 128, 1, 16, 2048, 0): 82,
    ("model1", 128, 1, 128, 512, 128): 45, ("model1", 128, 1, 64, 512, 128): 30, ("model1", 16, 1, 64, 512, 128): 11,
    ("model1", 2, 1, 64, 512, 128): 8.5, ("model1", 64, 1, 128, 1024, 128): 37,
    ("bf16", 128, 1, 128, 2048, 0): 130, ("bf16", 128, 1, 64, 2048, 0): 116, ("bf16", 128, 1, 16, 2048, 0): 113,
    ("bf16", 64, 1, 64, 2048, 0): 62, ("bf16", 8, 1, 64, 2048, 0): 16, ("bf16", 1, 1, 16, 2048, 0): 10,
}  # fmt: skip
EXTRA_CONTEXT = 1 << 20  # tokens of the extra cache in all
REPLAY_US = 6000.0


def measure(case: tuple, caches: dict[str, Cache], rounds: int, *, own_plan: bool = False) -> dict:
    kv_format, b, s_q, h_q, topk, extra_topk = case
    extra = Cache(kv_format, EXTRA_CONTEXT) if extra_topk else None
    p = Sparse(caches[kv_format], b, s_q, h_q, topk, extra, extra_topk, sink=bool(extra_topk))
    calls, out = ours(p, own_plan=own_plan)
    calls[0]()
    errors, graphs = {"ours": p.error(out)}, {"ours": timing.Replays(calls, REPLAY_US)}
    for name, peer in sparse_peers.ALL.items():
        found = peer(p)
        if found is not None:
            errors[name] = p.error(found[1]())
            graphs[name] = timing.Replays(found[0], REPLAY_US)
    times = timing.alternate(graphs, rounds)
    medians = timing.medians(times)
    peers = {name: us for name, us in medians.items() if name != "ours"}
    return {"us": medians["ours"], "peers": peers, "rounds_us": times, "rel_err": errors, "goal_us": GOALS.get(case)}


def parsed(text: str) -> tuple:
    name, *numbers = text.split(",")
    numbers = [int(x) for x in numbers]
    return (name, *numbers, *[0] * (5 - len(numbers)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--record", type=Path, help="append the records to this file")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--commit", default="", help="of the sources, for the record")
    parser.add_argument("--case", type=parsed, action="append")
    parser.add_argument("--own-plans", action="store_true", help="every call makes its schedule")
    args = parser.parse_args()
    facts = records.facts("sparse_decode", args.commit)
    print(facts, flush=True)
    caches: dict[str, Cache] = {}
    for case in args.case or GOALS:
        if case[0] not in caches:
            caches.clear()
            torch.cuda.empty_cache()
            caches[case[0]] = Cache(case[0], 128 * CONTEXT)
        found = measure(case, caches, args.rounds, own_plan=args.own_plans)
        records.append(args.record, {**facts, "op": "sparse_decode", "case": case, "own_plan": args.own_plans, **found})
        goal = found["goal_us"]
        verdict = "" if goal is None else f"goal {goal}: {'met' if found['us'] <= goal else 'missed'}"
        peers = " ".join(f"{name} {us:.1f} ({found['rel_err'][name]:.1e})" for name, us in found["peers"].items())
        name = ", ".join(map(str, case))
        print(f"{name:32} {found['us']:8.1f} us ({found['rel_err']['ours']:.1e}) {peers} {verdict}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
