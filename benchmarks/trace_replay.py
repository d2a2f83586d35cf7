#!/usr/bin/env python3
"""Replays request traces through a full batch and keeps snapshots of the lengths in it, in
data/trace_lengths.json. Needs no GPU.

A trace is a CSV file with the columns ContextTokens and GeneratedTokens, as the Azure LLM inference traces have them.
The replay is continuous batching at saturation: requests enter in the order of their arrival, each as soon as a slot
is free, with its context in the cache and its first token made; every step gives each request of the batch one token
more; a request leaves with its last. Arrival times are not used: the number of concurrent requests is given. A snapshot
is the cache lengths of the batch, context and tokens generated so far, in the order of the slots.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import json
import sys
from collections.abc import Sequence
from pathlib import Path

SNAPSHOTS_FILE = Path(__file__).resolve().parent / "data" / "trace_lengths.json"
CONCURRENT = (64, 128, 256)
# Snapshots are taken when these shares of the requests have entered: the batch is then full and well mixed.
SHARES = (0.25, 0.5, 0.75)

Request = tuple[int, int]  # context tokens, generated tokens


def read(path: Path) -> list[Request]:
    """The requests of a trace, by arrival."""
    with path.open(newline="") as file:
        return [(int(row["ContextTokens"]), int(row["GeneratedTokens"])) for row in csv.DictReader(file)]


def replay(
    requests: Sequence[Request], concurrent: int, shares: Sequence[float] = SHARES
) -> list[tuple[int, list[int]]]:
    """(requests that have entered, lengths) for each share."""
    wanted = [max(concurrent, int(share * len(requests))) for share in shares]
    snapshots: list[tuple[int, list[int]]] = []
    slots: list[tuple[int, int]] = [(0, 0)] * concurrent  # context tokens, step of entry
    free = [(0, slot) for slot in range(concurrent)]  # (step from which on the slot is free, slot): a heap
    now = 0
    for entered, (context, generated) in enumerate(requests):
        step, slot = heapq.heappop(free)
        if step > now:  # whoever enters at `now` has entered
            if len(snapshots) < len(wanted) and entered >= wanted[len(snapshots)]:
                lengths = [of_context + 1 + now - entry for of_context, entry in slots]
                snapshots.append((entered, lengths))
            now = step
        slots[slot] = context, step
        heapq.heappush(free, (step + max(generated - 1, 0), slot))
    return snapshots


def snapshots_of(traces: dict[str, Path]) -> list[dict]:
    """Of every trace at every number of concurrent requests."""
    return [
        {"trace": name, "concurrent": concurrent, "requests_entered": entered, "lengths": lengths}
        for name, path in traces.items()
        for concurrent in CONCURRENT
        for entered, lengths in replay(read(path), concurrent)
    ]


def named(argument: str) -> tuple[str, Path]:
    name, separator, path = argument.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"{argument!r} is not NAME=CSV")
    return name, Path(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="+", type=named, metavar="NAME=CSV", help="a trace and what it is called")
    try:
        found = snapshots_of(dict(parser.parse_args().traces))
    except (OSError, KeyError, ValueError) as error:
        parser.error(f"no trace: {error}")
    SNAPSHOTS_FILE.parent.mkdir(exist_ok=True)
    SNAPSHOTS_FILE.write_text("[\n" + ",\n".join(map(json.dumps, found)) + "\n]\n")
    print(f"{SNAPSHOTS_FILE}: {len(found)} snapshots")
    return 0


if __name__ == "__main__":
    sys.exit(main())
