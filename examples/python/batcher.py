"""Continuous batching: who runs in the next step, and the page table and lengths that describe them."""

import collections
import dataclasses

import numpy as np

from page_allocator import PageAllocator
from traffic import Request

PAGE_SIZE = 64  # tokens of a cache page


def pages_for(tokens: int) -> int:
    return -(-tokens // PAGE_SIZE)


@dataclasses.dataclass
class Sequence:
    """A running request."""

    request: Request
    pages: list[int]
    generated: int = 0


class Batcher:
    """Rows 0 ... len(self) - 1 of the page table are the running requests, in no particular order."""

    def __init__(self, allocator: PageAllocator, max_batch: int, max_blocks: int) -> None:
        self.waiting: collections.deque[Request] = collections.deque()
        self.running: list[Sequence] = []
        self.finished = 0
        self.refused = 0
        self.allocator = allocator
        self._max_batch = max_batch
        # -1 is outside every cache: an entry used by mistake reads zeros, and the check against the reference sees it.
        self._table = np.full((max_batch, max_blocks), -1, np.int32)
        self._lengths = np.zeros(max_batch, np.int32)

    def __len__(self) -> int:
        return len(self.running)

    @property
    def block_table(self) -> np.ndarray:
        return self._table[: len(self)]

    @property
    def cache_seqlens(self) -> np.ndarray:
        return self._lengths[: len(self)]

    def submit(self, request: Request) -> None:
        """Queues a request, or refuses one that could never run."""
        if pages_for(request.tokens) > min(self.allocator.num_pages, self._table.shape[1]):
            self.refused += 1
        else:
            self.waiting.append(request)

    def admit(self) -> list[int]:
        """Starts waiting requests, first come first served, while rows and pages last.

        Returns their rows: the caller fills their pages with the latents of the prompt.
        """
        rows = []
        while self.waiting and len(self) < self._max_batch:
            request = self.waiting[0]
            if not self.allocator.promise(pages_for(request.tokens)):
                break
            self.waiting.popleft()
            row = len(self)
            pages = [self.allocator.allocate() for _ in range(pages_for(request.context))]
            self.running.append(Sequence(request, pages))
            self._table[row, : len(pages)] = pages
            self._lengths[row] = request.context
            rows.append(row)
        return rows

    def grow(self) -> tuple[np.ndarray, np.ndarray]:
        """Makes room for one token in every running sequence: the page and the slot in it that each row writes to."""
        for row, sequence in enumerate(self.running):
            length = int(self._lengths[row])
            if length == len(sequence.pages) * PAGE_SIZE:
                self._table[row, len(sequence.pages)] = page = self.allocator.allocate()
                sequence.pages.append(page)
            self._lengths[row] = length + 1
            sequence.generated += 1
        last = self.cache_seqlens - 1
        return self.block_table[np.arange(len(self)), last // PAGE_SIZE], last % PAGE_SIZE

    def retire(self) -> np.ndarray:
        """Ends the requests that have all their tokens and frees their pages; the last rows move into the holes.

        Returns for each row of the smaller batch the row it had before.
        """
        before = list(range(len(self)))
        for row in reversed(range(len(self))):
            sequence = self.running[row]
            if sequence.generated < sequence.request.generated:
                continue
            never_taken = pages_for(sequence.request.tokens) - len(sequence.pages)
            self.allocator.release(sequence.pages, never_taken)
            self.finished += 1
            last = len(self) - 1
            self.running[row], before[row] = self.running[last], before[last]
            self._table[row], self._lengths[row] = self._table[last], self._lengths[last]
            self._table[last] = -1
            self.running.pop()
            before.pop()
        return np.array(before, np.int64)
