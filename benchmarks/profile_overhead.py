#!/usr/bin/env python3
"""What a profile costs a call: host_calls.py's tiny problem without one, with one, and with one that copies lengths, in
rounds that take turns. Median of the rounds in microseconds, and of what each is more than without one in the same
round, with the range that half of those lie in. Calls are those of a long profile: the first, which are all timed, went
before, and events of earlier calls are taken again.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "bindings" / "python"), str(HERE)]

import host_calls  # noqa: E402
from host import finish, gpu_is_there  # noqa: E402

import flashmla  # noqa: E402

WARM = 300  # calls: the first makes the events, and the first 256 are all timed
ON = {"max_pending": 256}  # all taken by those
MODES: dict[str, dict[str, int] | None] = {"off": None, "on": ON, "lengths": ON | {"lengths": True}}


def timed(call: Callable[[], object], device: str, count: int) -> float:
    """Microseconds a call."""
    finish(device)
    begin = time.perf_counter()
    for _ in range(count):
        call()
    took = time.perf_counter() - begin
    finish(device)
    return took / count * 1e6


def rounds(call: Callable[[], object], device: str, count: int, turns: int) -> dict[str, list[float]]:
    """Times of each mode, which take turns."""
    times: dict[str, list[float]] = {mode: [] for mode in MODES}
    for turn in range(turns + 1):
        for mode, options in MODES.items():
            if options is None:
                us = timed(call, device, count)
            else:
                with flashmla.profile(**options):
                    for _ in range(WARM):
                        call()
                    us = timed(call, device, count)
            if turn > 0:
                times[mode].append(us)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if gpu_is_there() else "cpu")
    parser.add_argument("--framework", default="torch")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--count", type=int, default=200, help="calls of a turn; no more than the driver's queue takes")
    args = parser.parse_args()
    calls = host_calls.calls_of(args.framework, args.device, flashmla)
    print(f"{'call':16}{'mode':10}{'us':>9}{'more':>9}  half of the rounds")
    for name in ("given", "alone", "prepared", "merge"):
        found = rounds(calls[name], args.device, args.count, args.rounds)
        for mode, us in found.items():
            low, more, high = statistics.quantiles(map(float.__sub__, us, found["off"]), n=4)
            print(f"{name:16}{mode:10}{statistics.median(us):9.2f}{more:9.2f}  {low:.2f} to {high:.2f}")


if __name__ == "__main__":
    main()
