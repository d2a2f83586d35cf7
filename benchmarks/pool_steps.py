#!/usr/bin/env python3
"""Times what a pool does for one decode step: a token more for every sequence, a page more for every 64th, the arrays
brought up to date (on a GPU: their upload issued). Lengths are spread over a page, so that a share of the sequences get
a page in each step. A record is one JSON object a line:
  sequences blocks  of the pool
  device            cpu, or cuda
  us p99_us         microseconds a step: median, and what one in a hundred exceeds
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "bindings" / "python"), str(HERE)]

import host  # noqa: E402
import records  # noqa: E402

import flashmla  # noqa: E402

PAGE = 64
# (sequences, blocks of the pool, most microseconds a step)
CASES = [(256, 16_384, 100.0), (10_000, 65_536, 2000.0), (256, 1_000_000, 100.0), (10_000, 1_000_000, 2000.0)]


def arrays(blocks: int, device: str):
    """A cache of rows of 16 bytes, whose size does not matter here."""
    import torch

    return torch.empty((blocks, PAGE, 1, 8), dtype=torch.bfloat16, device=device)


def prepared(sequences: int, blocks: int, device: str) -> tuple[flashmla.PagedKVCache, list[int]]:
    cache = flashmla.PagedKVCache(
        [arrays(blocks, device)], max_seqs=sequences, max_seq_len=2048, max_slots=64 * sequences
    )
    names = [cache.allocate()[0] for _ in range(sequences)]
    cache.append(names, [1 + i % PAGE for i in range(sequences)])
    return cache, names


def timed(sequences: int, blocks: int, device: str, steps: int) -> list[float]:
    """Microseconds of each step. On a GPU nothing else is in its queue."""
    cache, names = prepared(sequences, blocks, device)
    taken = []
    for _ in range(steps):
        start = time.perf_counter()
        cache.append(names)
        taken.append((time.perf_counter() - start) * 1e6)
        if device == "cuda":
            host.finish(device)
    return taken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--record", type=Path, help="append the records to this file")
    parser.add_argument("--commit", default="", help="of the sources, for the record")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    facts = host.facts(args.device, args.commit) | {"benchmark": "pool_steps"} if args.record else {}
    late = 0
    for sequences, blocks, most in CASES:
        taken = sorted(timed(sequences, blocks, args.device, args.steps))
        us = statistics.median(taken)
        late += us > most
        print(f"{sequences:6} sequences, {blocks:8} blocks: {us:7.1f} us, at most {most:.0f} are wanted", flush=True)
        found = {
            "sequences": sequences,
            "blocks": blocks,
            "us": round(us, 1),
            "p99_us": round(taken[-args.steps // 100 - 1], 1),
        }
        records.append(args.record, facts | found)
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
