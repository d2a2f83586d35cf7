#!/usr/bin/env python3
"""What plans cost on a GPU: made afresh in every call, and batch invariant, against one made beforehand.

FlashMLA runs beside, with metadata made beforehand and in every call. A record is one JSON object a line:
  case                [batch, s_q, h_q, tokens]
  us spread limit_us  as in dense_decode.py, with a plan made beforehand
  us_planned          with a plan made in every call
  us_batch_invariant us_batch_invariant_planned
                      likewise with batch-invariant ones
  peers peers_planned as in dense_decode.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "bindings" / "python"), str(HERE)]

import goals  # noqa: E402
import limits  # noqa: E402
import peer_libraries  # noqa: E402
import records  # noqa: E402
import timing  # noqa: E402
from contenders import Ours  # noqa: E402
from problem import TABLE_PAGES, Pool, Problem  # noqa: E402

CASES = [(b, 1, h_q, tokens) for h_q in (16, 128) for tokens in (4096, 8192) for b in (16, 32, 64, 128)]
CASES += [(b, 2, 128, 4096) for b in (16, 128)]
TARGET_US = 10_000.0


def measure(p: Problem, rounds: int, ceilings: limits.Ceilings) -> dict:
    contenders = {
        "reused": Ours(p).calls,
        "planned": Ours(p, own_plan=True).calls,
        "batch_invariant": Ours(p, batch_invariant=True).calls,
        "batch_invariant_planned": Ours(p, batch_invariant=True, own_plan=True).calls,
        "flashmla": peer_libraries.flashmla(p),
        "flashmla_planned": peer_libraries.flashmla(p, fresh=True),
    }
    graphs = {name: timing.Replays(calls, TARGET_US) for name, calls in contenders.items() if calls}
    times = timing.alternate(graphs, rounds)
    us = {name: round(value, 2) for name, value in timing.medians(times).items()}
    return {
        "us": us["reused"],
        "spread": round(timing.spread(times["reused"]), 4),
        "us_planned": us["planned"],
        "us_batch_invariant": us["batch_invariant"],
        "us_batch_invariant_planned": us["batch_invariant_planned"],
        "limit_us": ceilings.us(p),
        "peers": {"flashmla": us["flashmla"]} if "flashmla" in us else {},
        "peers_planned": {"flashmla": us["flashmla_planned"]} if "flashmla" in us else {},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--record", type=Path, help="append the records to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--commit", default="", help="of the sources, for the record")
    args = parser.parse_args()
    ceilings = limits.measured()
    facts = records.facts("plans", args.commit) | ceilings.facts()
    print(facts, flush=True)
    pool = Pool(TABLE_PAGES)
    for case in CASES:
        b, s_q, h_q, tokens = case
        found = measure(Problem([tokens] * b, s_q, h_q, pool), args.rounds, ceilings)
        records.append(args.record, {**facts, "op": "dense_decode", "dtype": "bfloat16", "case": list(case), **found})
        fresh = found["us_planned"] - found["us"]
        invariant = found["us_batch_invariant"] / found["us"]
        peer = [found["peers_planned"][name] - us for name, us in found["peers"].items()]
        print(
            f"{', '.join(map(str, case)):20} {found['us']:7.1f} us, fresh plan {fresh:+.1f} us",
            f"({goals.verdict(fresh, goals.FRESH_PLAN_US)}; FlashMLA's {', '.join(f'{x:+.1f}' for x in peer) or '-'}),",
            f"batch invariant {invariant:.3f} ({goals.verdict(invariant, goals.BATCH_INVARIANT)}),",
            f"its plan {found['us_batch_invariant_planned'] - found['us_batch_invariant']:+.1f} us",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
