"""What plans cost sparse_decode: made in every call, and batch invariant, whole or in parts; of one format and of two.

    python benchmarks/sparse_plans.py [--record FILE] [--commit HASH] [--rounds N]

A record is one JSON object a line:
  case                [format, batch, s_q, h_q, topk, extra format, extra topk]
  us                  with a plan made beforehand
  us_planned          with a plan made in every call
  us_batch_invariant  with batch-invariant plans made beforehand, by their num_splits
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import records
import timing
from sparse_problem import CONTEXT, Cache, Sparse, ours

SHAPES = [(128, 1, 128), (128, 1, 16), (64, 1, 64), (16, 1, 128), (16, 1, 16), (1, 1, 128), (1, 1, 16)]
CASES = [("v32", *shape, 2048, "", 0) for shape in SHAPES]
CASES += [("bf16", *shape, 2048, "", 0) for shape in ((128, 1, 128), (16, 1, 128), (1, 1, 16))]
PAIRS = (("v32", 2048, "v32"), ("v32", 2048, "bf16"), ("model1", 512, "model1"), ("model1", 512, "v41"))
CASES += [
    (kv_format, b, 1, h_q, topk, extra_format, 128)
    for kv_format, topk, extra_format in PAIRS
    for b, h_q in ((128, 128), (16, 64), (2, 64))
]
SPLITS = (0, 4, 8)
EXTRA_CONTEXT = 1 << 20  # tokens of the extra cache in all
REPLAY_US = 3000.0


def measure(case: tuple, cache: Cache, rounds: int) -> dict:
    _, b, s_q, h_q, topk, extra_format, extra_topk = case
    extra = Cache(extra_format, EXTRA_CONTEXT) if extra_topk else None
    p = Sparse(cache, b, s_q, h_q, topk, extra, extra_topk, sink=bool(extra_topk))
    contenders = {"reused": ours(p), "planned": ours(p, own_plan=True)}
    contenders |= {str(n): ours(p, batch_invariant=True, num_splits=n) for n in SPLITS}
    graphs = {name: timing.Replays(calls, REPLAY_US) for name, (calls, _) in contenders.items()}
    us = {name: round(value, 2) for name, value in timing.medians(timing.alternate(graphs, rounds)).items()}
    invariant = {str(n): us[str(n)] for n in SPLITS}
    return {"us": us["reused"], "us_planned": us["planned"], "us_batch_invariant": invariant, "peers": {}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--record", type=Path, help="append the records to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--commit", default="", help="of the sources, for the record")
    args = parser.parse_args()
    facts = records.facts("sparse_plans", args.commit)
    print(facts, flush=True)
    cache = None
    for case in CASES:
        if cache is None or cache.kv_format != case[0]:
            cache = Cache(case[0], 32 * CONTEXT)
        found = measure(case, cache, args.rounds)
        records.append(args.record, {**facts, "op": "sparse_decode", "case": case, **found})
        invariant = ", ".join(f"{n}: {us:.1f}" for n, us in found["us_batch_invariant"].items())
        name = ", ".join(map(str, case))
        print(
            f"{name:40} {found['us']:7.1f} us, fresh plan {found['us_planned']:.1f}, invariant {invariant}", flush=True
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
