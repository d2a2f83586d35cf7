"""Sequences over pages that lie scattered in caches full of NaN, without the library's own manager of pages."""

from __future__ import annotations

import random

import torch


class Paging:
    """Caches of a model's layers, and which pages its sequences have."""

    def __init__(self, shape, layers, dtype=torch.float32, device="cpu", max_blocks=8):
        self.kv_caches = [torch.empty(shape, dtype=dtype, device=device) for _ in range(layers)]
        for kv_cache in self.kv_caches:
            kv_cache.view(torch.uint8).fill_(0xFF)  # NaN in every format
        self.page_size, self.max_blocks = shape[1], max_blocks
        self.free = list(range(shape[0]))
        random.Random(0).shuffle(self.free)
        self.pages: dict[object, list[int]] = {}
        self.lengths: dict[object, int] = {}

    def step(self, counts, **options):
        """The step in which sequences get `counts` tokens more."""
        from flashmla.integrations.transformers import PagedStep

        contexts = [self.lengths.setdefault(sequence, 0) for sequence in counts]
        for sequence, count in counts.items():
            pages = self.pages.setdefault(sequence, [])
            self.lengths[sequence] += count
            while len(pages) * self.page_size < self.lengths[sequence]:
                pages.append(self.free.pop())
        table = [self.pages[sequence] + [2**30] * (self.max_blocks - len(self.pages[sequence])) for sequence in counts]
        block_table = torch.tensor(table, dtype=torch.int32, device=self.kv_caches[0].device)
        return PagedStep.of_lengths(self.kv_caches, block_table, contexts, list(counts.values()), **options)

    def leave(self, sequence):
        self.free.extend(self.pages.pop(sequence))
        del self.lengths[sequence]
