#!/usr/bin/env python3
"""Replays a request trace through a PagedKVCache of half the blocks that it takes at its peak, on the CPU.

The trace has the columns of trace_replay.py, and the replay is continuous batching, too: requests enter in order, as
soon as there is a slot; every step gives each request of the batch one token more. Prompts begin with one of a few
system prompts, whose pages are shared. Where blocks run out the request that entered last is swapped out to host
memory, and back when there is room. Sampled requests write rows and, at their end, attend them: the result must be
that of the same rows in a cache of their own. At the end every page must be accounted for.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "bindings" / "python"), str(HERE)]

import numpy as np  # noqa: E402
import trace_replay  # noqa: E402

import flashmla  # noqa: E402

PAGE, D_QK, D_V = 64, 160, 128
SYSTEM_PROMPTS, SYSTEM_TOKENS = 8, 256
KINDS = 4093  # different rows, a prime
SAMPLED = 100  # one request of so many is looked at


@dataclass
class Request:
    number: int
    context: int
    generated: int
    sequence: int = 0
    made: int = 0  # tokens generated

    @property
    def length(self) -> int:
        return self.context + self.made

    def ids(self, first: int, count: int) -> np.ndarray:
        """Token ids: those of a system prompt, then its own."""
        places = np.arange(first, first + count, dtype="int64")
        shared = places + (self.number % SYSTEM_PROMPTS << 40)
        return np.where(places < min(SYSTEM_TOKENS, self.context - 1), shared, places + (self.number + 1 << 20))


@dataclass
class Replay:
    """`blocks`: of the pool. With `contents` rows are written and attended; else the books alone are kept."""

    blocks: int
    host_blocks: int
    concurrent: int
    longest: int
    contents: bool
    peak: int = 0  # blocks in use
    swaps: int = 0
    shared: int = 0  # tokens that were not computed again
    checked: int = 0
    steps: int = 0
    running: list[Request] = field(default_factory=list)
    swapped: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        columns = D_QK if self.contents else 8
        self.pages = np.empty((self.blocks, PAGE, 1, columns), "float32")
        size = flashmla.PagedKVCache.bytes_of_block([self.pages])
        host = np.empty((self.host_blocks, size), "uint8") if self.host_blocks else None
        self.cache = flashmla.PagedKVCache(
            [self.pages],
            max_seqs=self.concurrent,
            max_seq_len=self.longest,
            max_slots=max(self.concurrent, self.longest),
            host_pool=host,
        )
        random = np.random.default_rng(0)
        self.kinds = random.standard_normal((KINDS, columns), dtype="float32")
        self.query = random.standard_normal((1, 1, 4, columns), dtype="float32")

    def rows(self, ids: np.ndarray) -> np.ndarray:
        return self.kinds[ids % KINDS]

    def run(self, requests: Sequence[trace_replay.Request]) -> None:
        waiting = [Request(i, context, generated) for i, (context, generated) in enumerate(requests)][::-1]
        while waiting or self.running or self.swapped:
            self.come_back()
            while waiting and not self.swapped and len(self.running) < self.concurrent and self.enter(waiting[-1]):
                waiting.pop()
            self.step()
            self.peak = max(self.peak, self.cache.usage().used)

    def enter(self, request: Request) -> bool:
        ids = request.ids(0, request.context)
        request.sequence, cached = self.cache.allocate(ids)
        try:
            total = self.cache.append([request.sequence], [request.context - cached])
        except flashmla.PoolFullError:
            self.cache.free(request.sequence)
            if not self.running:
                raise
            return False
        # Rows of system prompts are everybody's; others are those of the requests that are looked at.
        written = ids[cached:] if self.sampled(request) else ids[cached : max(cached, SYSTEM_TOKENS)]
        if self.contents:
            flashmla.append_kv(self.pages, self.rows(written), None, self.cache.slot_mapping[:total][: len(written)])
        self.cache.commit(request.sequence, ids[: SYSTEM_TOKENS if request.context > SYSTEM_TOKENS else 0])
        self.shared += cached
        self.running.append(request)
        return True

    def sampled(self, request: Request) -> bool:
        return request.number % SAMPLED == 0

    def step(self) -> None:
        """A token for each, after as many went out as it takes."""
        while self.running:
            try:
                self.cache.append([request.sequence for request in self.running])
                break
            except flashmla.PoolFullError:
                request = self.running.pop()
                self.cache.swap_out(request.sequence)
                self.swapped.append(request)
                self.swaps += 1
        self.steps += 1
        for i, request in enumerate(self.running):
            if self.contents and self.sampled(request):
                written = self.rows(request.ids(request.length, 1))
                flashmla.append_kv(self.pages, written, None, self.cache.slot_mapping[i : i + 1])
            request.made += 1
            if request.made >= request.generated:
                self.leave(request)
        self.running = [request for request in self.running if request.made < request.generated]

    def come_back(self) -> None:
        """The one that went last comes back first, and only with room for steps of all."""
        while self.swapped:
            needed = -(-self.swapped[-1].length // PAGE) + len(self.running)
            usage = self.cache.usage()
            if self.running and (usage.free + usage.cached < needed or not usage.free_rows):
                return
            request = self.swapped.pop()
            self.cache.swap_in(request.sequence)
            self.running.append(request)

    def leave(self, request: Request) -> None:
        if self.contents and self.sampled(request):
            self.check(request)
        self.cache.free(request.sequence)

    def check(self, request: Request) -> None:
        row, length = self.cache.row(request.sequence), request.length
        assert self.cache.length(request.sequence) == length
        pages = -(-length // PAGE)
        alone = np.zeros((pages * PAGE, D_QK), "float32")
        alone[:length] = self.rows(request.ids(0, length))
        lengths = np.array([length], "int32")
        table = np.ascontiguousarray(self.cache.block_table[row : row + 1, :pages])
        found, _ = flashmla.dense_decode(self.query, self.pages, table, lengths)
        wanted, _ = flashmla.dense_decode(
            self.query, alone.reshape(pages, PAGE, 1, D_QK), np.arange(pages, dtype="int32")[None], lengths
        )
        assert np.array_equal(found, wanted), f"request {request.number} attends other rows than it wrote"
        self.checked += 1

    def leftover(self) -> str:
        """Why a page is not accounted for; "" where all are."""
        usage = self.cache.usage()
        whole = usage.used == usage.shared == usage.sequences == 0 and usage.free + usage.cached == usage.num_blocks
        back = usage.host_free == usage.num_host_blocks and usage.free_rows == usage.max_seqs
        return "" if whole and back else str(usage)


def replayed(requests: Sequence[trace_replay.Request], concurrent: int) -> Replay:
    """Twice: to find the peak, and in a pool of half of that."""
    longest = max(context + generated for context, generated in requests)
    need = -(-longest // PAGE) + 1
    first = Replay(concurrent * need, 0, concurrent, longest, contents=False)
    first.run(requests)
    half = max(first.peak // 2, need + concurrent)
    second = Replay(half, 2 * first.peak, concurrent, longest, contents=True)
    second.run(requests)
    return second


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", nargs="+", type=Path, help="a trace")
    for path in parser.parse_args().csv:
        start = time.monotonic()
        try:
            requests = trace_replay.read(path)
        except (OSError, KeyError, ValueError) as error:
            parser.error(f"{path} is no trace: {error}")
        done = replayed(requests, 256)
        print(
            f"{path.name}: {len(requests)} requests in {done.steps} steps over {done.blocks} blocks, "
            f"{done.swaps} swaps, {done.shared} tokens shared, {done.checked} outputs right, "
            f"{done.leftover() or 'every page accounted for'}, {time.monotonic() - start:.0f} s"
        )
        if done.leftover():
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
