#!/usr/bin/env python3
"""Times swaps of a long sequence to pinned host memory and back, and decode steps of others beside them. A step
is a token more for each, which uploads lengths and slots, and dense_decode in every layer; or that alone, as in a
replayed graph. Needs a GPU. A record is one JSON object a line:
  uploads           of what a step appends: kernel; pageable: copies from memory that is not pinned
  layout            of the layers: listed, a tensor each; interleaved, those of a page behind one another
  appends           whether a step has tokens appended
  layers megabytes  of the sequence that is swapped
  swap              out, or in
  gbs               GB/s of the swap alone
  call_ms           milliseconds that the host is in its call
  swap_ms steps_ms both_ms
                    from the first call until the device is done: the swap alone, steps alone, both at once
  step_us beside_us microseconds a step on the device: alone, and beside the swap
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "bindings" / "python"), str(HERE)]

import records  # noqa: E402

import flashmla  # noqa: E402
from flashmla._torch import Torch  # noqa: E402

PAGE, D_QK, D_V, HEADS = 64, 576, 512, 128
BATCH, TOKENS, ROOM = 32, 4000, 5  # sequences of the steps, their tokens, pages that each may grow by
LAYOUTS = ("listed", "interleaved")
ROUNDS = 5
OF_THE_SWAP = 0.8  # so long the steps are that are timed beside it, so that they end before it


class Times(NamedTuple):
    """Milliseconds."""

    whole: float
    call: float  # of the host in the swap's call
    steps: float  # on the device


@dataclass
class Pair:
    """A swap and steps, apart and at once."""

    name: str
    count: int  # of steps
    swap: Times
    steps: Times
    both: Times


class Pool:
    """A pool with a sequence of `pages` pages to swap and others that decode; as many pages more are free."""

    def __init__(self, layout: str, layers: int, pages: int) -> None:
        import torch

        self.torch = torch
        blocks = 2 * pages + BATCH * (-(-TOKENS // PAGE) + ROOM)
        shape = (PAGE, 1, D_QK)
        made = {"dtype": torch.bfloat16, "device": "cuda"}
        if layout == "listed":
            self.layers = [torch.randn(blocks, *shape, **made) for _ in range(layers)]
        else:
            self.layers = list(torch.randn(blocks, layers, *shape, **made).unbind(1))
        size = flashmla.PagedKVCache.bytes_of_block(self.layers)
        self.host = torch.empty(pages, size, dtype=torch.uint8, pin_memory=True)
        self.bytes = self.host.nbytes
        self.cache = flashmla.PagedKVCache(
            self.layers,
            max_seqs=BATCH + 1,
            max_seq_len=max(pages * PAGE, TOKENS + ROOM * PAGE),
            max_slots=max(pages * PAGE, BATCH * TOKENS),
            host_pool=self.host,
        )
        self.others = [self.cache.allocate()[0] for _ in range(BATCH)]
        self.cache.append(self.others, [TOKENS] * BATCH)
        self.long, _ = self.cache.allocate()
        self.cache.append([self.long], [pages * PAGE])
        self.q = torch.randn(BATCH, 1, HEADS, D_QK, **made)
        self.out = torch.empty(BATCH, 1, HEADS, D_V, **made)
        columns = -(-TOKENS // PAGE) + ROOM
        self.attended = self.cache.block_table[:BATCH, :columns], self.cache.cache_seqlens[:BATCH]
        self.plan = flashmla.plan_decode(self.q, self.layers[0], *self.attended)

    def step(self, *, appends: bool) -> None:
        if appends:
            self.cache.append(self.others)
        for layer in self.layers:
            flashmla.dense_decode(self.q, layer, *self.attended, plan=self.plan, out=self.out, return_lse=False)

    def swap(self, name: str) -> None:
        (self.cache.swap_out if name == "out" else self.cache.swap_in)(self.long)

    def timed(self, swap: str | None, steps: int, *, appends: bool = True) -> Times:
        """Steps are enqueued behind the call of the swap, with as many tokens every time."""
        for other in self.others:
            self.cache.truncate(other, TOKENS)
        self.cache.update()
        begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.torch.cuda.synchronize()
        start = time.perf_counter()
        if swap:
            self.swap(swap)
        called = time.perf_counter()
        begin.record()
        for _ in range(steps):
            self.step(appends=appends)
        end.record()
        self.torch.cuda.synchronize()
        return Times(1e3 * (time.perf_counter() - start), 1e3 * (called - start), begin.elapsed_time(end))

    def pairs(self, *, appends: bool, rounds: int = ROUNDS) -> list[Pair]:
        """Medians of rounds, of a swap out and one in."""
        self.timed(None, 3)
        alone = {name: self.timed(name, 0).whole for _ in range(2) for name in ("out", "in")}
        step = self.timed(None, 3, appends=appends).steps / 3
        counts = {name: max(1, min(ROOM * PAGE, int(OF_THE_SWAP * ms / step))) for name, ms in alone.items()}
        swaps, steps, both = ({name: [] for name in counts} for _ in range(3))
        for _ in range(rounds):
            for name in counts:
                swaps[name].append(self.timed(name, 0))
            for name, count in counts.items():
                both[name].append(self.timed(name, count, appends=appends))
                steps[name].append(self.timed(None, count, appends=appends))
        return [
            Pair(name, count, median(swaps[name]), median(steps[name]), median(both[name]))
            for name, count in counts.items()
        ]


def median(times: list[Times]) -> Times:
    return Times(*map(statistics.median, zip(*times, strict=True)))


def measured(layout: str, layers: int, pages: int, tell: Callable[[dict], None]) -> None:
    pool = Pool(layout, layers, pages)
    for appends in (False, True):
        for pair in pool.pairs(appends=appends):
            tell({"layout": layout, "appends": appends, "layers": layers, **facts_of(pair, pool.bytes)})


def facts_of(pair: Pair, size: int) -> dict:
    return {
        "megabytes": round(size / 1e6),
        "swap": pair.name,
        "gbs": round(size / pair.swap.whole / 1e6, 1),
        "call_ms": round(pair.swap.call, 2),
        "swap_ms": round(pair.swap.whole, 2),
        "steps_ms": round(pair.steps.whole, 2),
        "both_ms": round(pair.both.whole, 2),
        "step_us": round(1e3 * pair.steps.steps / pair.count, 1),
        "beside_us": round(1e3 * pair.both.steps / pair.count, 1),
    }


def pageable(framework: Torch, size: int) -> tuple:
    """Staging that is not pinned."""
    import torch

    made = torch.empty(size, dtype=torch.uint8)
    return made, framework.address(made)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--record", type=Path, help="append the records to this file")
    parser.add_argument("--commit", default="", help="of the sources, for the record")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--pages", type=int, default=512, help="of the sequence that is swapped")
    parser.add_argument("--pageable", action="store_true", help="uploads are copies: staging is not pinned")
    args = parser.parse_args()
    if args.pageable:
        Torch.pinned = pageable
    facts = records.facts("pool_swap", args.commit) if args.record else {}

    def tell(found: dict) -> None:
        found = {"uploads": "pageable" if args.pageable else "kernel", **found}
        print(" ".join(f"{name} {value}" for name, value in found.items()), flush=True)
        records.append(args.record, facts | found)

    for layout in LAYOUTS:
        measured(layout, args.layers, args.pages, tell)
    return 0


if __name__ == "__main__":
    sys.exit(main())
