"""Times dense_decode of bf16 for every head size beside what the machine's limits allow.

    python benchmarks/head_sizes.py [--record FILE] [--commit HASH] [--rounds N]

Replays as those of dense_decode.py, with plans made beforehand. A record is one JSON object a line:
  case      [d_qk, batch, s_q, h_q, tokens]
  us        with a plan made beforehand; spread as in dense_decode.py
  limit_us  max(KV bytes / read bandwidth, FLOP / rate of a large product)
  rel_err   ||out - ref|| / ||ref|| against float64
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "bindings" / "python"), str(HERE)]

import dense_errors  # noqa: E402
import limits  # noqa: E402
import records  # noqa: E402
import timing  # noqa: E402
from contenders import Ours  # noqa: E402
from problem import TABLE_PAGES, Pool, Problem  # noqa: E402

D_QK = (576, 512, 320, 288, 160)
SHAPES = ((128, 1, 128, 4096), (128, 1, 32, 4096), (16, 1, 32, 8192), (1, 1, 32, 65536))


def measure(p: Problem, rounds: int, ceilings: limits.Ceilings) -> dict:
    ours = Ours(p)
    ours.calls[0]()
    ((rel_err, _),) = dense_errors.errors(p, [ours.results])
    graphs = {"ours": timing.Replays(ours.calls)}
    timing.alternate(graphs, timing.WARM_ROUNDS)
    found = timing.alternate(graphs, rounds)
    return {
        "us": round(timing.medians(found)["ours"], 2),
        "spread": round(timing.spread(found["ours"]), 4),
        "limit_us": ceilings.us(p),
        "rel_err": float(f"{rel_err:.3g}"),
        "peers": {},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--record", type=Path, help="append the records to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--commit", default="", help="of the sources, for the record")
    args = parser.parse_args()
    ceilings = limits.measured()
    facts = records.facts("head_sizes", args.commit) | ceilings.facts() | {"op": "dense_decode"}
    print(facts, flush=True)
    for d_qk in D_QK:
        pool = Pool(TABLE_PAGES, d_qk=d_qk)
        for b, s_q, h_q, tokens in SHAPES:
            found = measure(Problem([tokens] * b, s_q, h_q, pool), args.rounds, ceilings)
            record = facts | {"case": [d_qk, b, s_q, h_q, tokens]} | found
            records.append(args.record, record)
            cells = f"{found['us']:8.1f} us, limit {found['limit_us']:.1f}, error {found['rel_err']:.1e}"
            print(f"{', '.join(map(str, record['case'])):28} {cells}", flush=True)
        del pool
    return 0


if __name__ == "__main__":
    sys.exit(main())
