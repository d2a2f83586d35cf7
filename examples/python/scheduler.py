"""Continuous batching over a `PagedKVCache`: whose tokens are in the next step, and who makes room."""

import collections
import dataclasses
from collections.abc import Callable
from typing import TypeVar

import flashmla
from traffic import Request

PAGE_SIZE = 64  # tokens of a cache page
S = TypeVar("S")


def pages_for(tokens: int) -> int:
    return -(-tokens // PAGE_SIZE)


@dataclasses.dataclass(eq=False)
class Served:
    """A request with its tokens so far. Those behind `written` are not in the cache."""

    request: Request
    tokens: list[int]
    sequence: int = 0
    written: int = 0

    @property
    def prefilled(self) -> bool:
        return self.written >= self.request.context


def by_number(served: Served) -> int:
    return served.request.number


@dataclasses.dataclass
class Counts:
    finished: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    found_tokens: int = 0  # of prompts, in pages of others
    swapped_out: int = 0
    restarted: int = 0  # since host memory was full, too


class Scheduler:
    """Requests wait, run, are swapped out and run again, and end.

    A request is admitted when there are pages for its prompt, in the hope that those for its answer will come. Where
    they do not, the request that came last is swapped out to host memory, whole; it comes back before any new one is
    admitted.
    """

    def __init__(self, cache: flashmla.PagedKVCache, max_batch: int, max_step_tokens: int) -> None:
        self.cache, self.counts = cache, Counts()
        self.waiting: collections.deque[Served] = collections.deque()
        self.running: list[Served] = []  # the one that came first is first
        self.swapped: list[Served] = []
        self._max_batch, self._max_step_tokens = max_batch, max_step_tokens

    def __bool__(self) -> bool:
        return bool(self.waiting or self.running or self.swapped)

    def submit(self, request: Request, prompt: list[int]) -> None:
        """Queues a request, or refuses one that would not fit if it were alone."""
        if pages_for(request.tokens) > min(self.cache.num_blocks, self.cache.block_table.shape[1]):
            self.counts.refused += 1
        else:
            self.waiting.append(Served(request, prompt))

    def next_step(self, begin: Callable[[list[int], list[int]], S]) -> tuple[S, list[int], dict[Served, int]]:
        """What `begin` makes of sequences and how many tokens each gets, those tokens, and how many are whose.

        Where `begin` finds no room, the last one to come makes some.
        """
        self._bring_back()
        self._admit()
        pieces = self._pieces()
        while True:
            try:
                step = begin([served.sequence for served in pieces], list(pieces.values()))
            except flashmla.PoolFullError:
                if len(self.running) == 1:
                    raise
                pieces.pop(self.running[-1], None)
                self._make_room(self.running.pop())
                continue
            tokens = [
                token
                for served, count in pieces.items()
                for token in served.tokens[served.written : served.written + count]
            ]
            return step, tokens, pieces

    def take(self, pieces: dict[Served, int], follow: list[int]) -> int:
        """The step is done; `follow`: the token behind each sequence. Returns how many are new ones of answers."""
        new = 0
        for (served, count), token in zip(pieces.items(), follow, strict=True):
            began = not served.prefilled
            served.written += count
            if served.written < len(served.tokens):
                continue  # the rest of its prompt comes first
            if began and served.prefilled:
                self.cache.commit(served.sequence, served.tokens[: served.request.context])
            served.tokens.append(token)
            new += 1
            if len(served.tokens) == served.request.tokens:
                self.cache.free(served.sequence)
                self.running.remove(served)
                self.counts.finished += 1
        return new

    def free_pages(self) -> int:
        """Pages that may be handed out, without those that prompts under way still need."""
        usage = self.cache.usage()
        promised = sum(
            pages_for(len(served.tokens)) - pages_for(served.written) for served in self.running if not served.prefilled
        )
        return usage.free + usage.cached - promised

    def _bring_back(self) -> None:
        """In the order in which they came; with a page more for each that runs, or the first step would end it."""
        while self.swapped and len(self.running) < self._max_batch:
            served = self.swapped[0]
            needed = pages_for(len(served.tokens)) + len(self.running) + 1
            if self.running and needed > self.free_pages():
                return
            self.cache.swap_in(served.sequence)
            self.running.append(self.swapped.pop(0))
            self.running.sort(key=by_number)

    def _admit(self) -> None:
        """First come, first served."""
        while self.waiting and not self.swapped and len(self.running) < self._max_batch:
            served = self.waiting[0]
            needed = pages_for(len(served.tokens)) - self.cache.match(served.tokens) // PAGE_SIZE
            if self.running and needed > self.free_pages():
                return
            served.sequence, served.written = self.cache.allocate(served.tokens)
            self.counts.prompt_tokens += len(served.tokens)
            self.counts.found_tokens += served.written
            self.running.append(self.waiting.popleft())

    def _pieces(self) -> dict[Served, int]:
        """One token of each that decodes, and of prompts as many as a step may have."""
        pieces: dict[Served, int] = {}
        budget = self._max_step_tokens
        for served in sorted(self.running, key=lambda served: not served.prefilled):
            if count := min(len(served.tokens) - served.written, budget):
                pieces[served] = count
                budget -= count
        return pieces

    def _make_room(self, served: Served) -> None:
        try:
            self.cache.swap_out(served.sequence)
        except flashmla.PoolFullError:  # host memory is full: it begins anew, with the tokens that it has
            self.cache.free(served.sequence)
            served.written = 0
            self.waiting.appendleft(served)
            self.counts.restarted += 1
            return
        self.swapped.append(served)
        self.swapped.sort(key=by_number)
        self.counts.swapped_out += 1
