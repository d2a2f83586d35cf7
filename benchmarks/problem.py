"""A dense decode problem on the GPU: its tensors, block tables into a pool of KV pages, and what it costs at least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from flashmla._attention import D_V

DEVICE = "cuda"
D_QK, PAGE = 576, 64
TABLE_PAGES = 17_000  # a table's pages are drawn from at least so many (1.25 GB), like those of a server's cache
ROTATE_BYTES = 250e6  # KV that the tables of a problem cover together, several times any L2 ...
MAX_TABLES = 64  # ... where so many of them suffice; smaller problems find some of their KV in L2, as all contenders do
FILL_PAGES = 1000  # filled at a time, so that the generator's scratch stays small


class Pool:
    """KV pages that problems share: independent values of N(0, sigma^2)."""

    kv_format = "bf16"

    def __init__(self, pages: int, dtype: torch.dtype = torch.bfloat16, d_qk: int = D_QK) -> None:
        self.dtype, self.d_qk = dtype, d_qk
        self.pages = torch.empty(pages, PAGE, 1, d_qk, dtype=dtype, device=DEVICE)
        self._sigma: float | None = None
        self.fill(1.0)

    def fill(self, sigma: float) -> None:
        """Again only when sigma is another one than before."""
        if sigma != self._sigma:
            for chunk in self.pages.split(FILL_PAGES):
                chunk.normal_(std=sigma)
            self._sigma = sigma

    def rows(self, slots: torch.Tensor) -> torch.Tensor:
        """Tokens, d_qk numbers each."""
        return self.pages.view(-1, self.d_qk)[slots]


class Tokens(Protocol):
    """What a problem asks of a Pool, which a cache in another format has as well; dtype is that of q."""

    kv_format: str
    d_qk: int
    dtype: torch.dtype
    pages: torch.Tensor

    def rows(self, slots: torch.Tensor) -> torch.Tensor:
        """Tokens as they are attended."""


class Problem:
    """Requests of given lengths, s_q query tokens each; causal where there are several."""

    def __init__(
        self,
        lengths: Sequence[int],
        s_q: int,
        h_q: int,
        pool: Tokens,
        *,
        sigma: float = 1.0,
        least_tables: int = 2,
        page: int = PAGE,
    ) -> None:
        """sigma: that of q. page: its tokens, a divisor of those of the pool's pages."""
        self.page, self.pool = page, pool
        self.kv_format, self.d_qk, self.dtype = pool.kv_format, pool.d_qk, pool.dtype
        self.d_v = D_V[pool.d_qk]
        self.kv_cache = pool.pages.view(-1, page, 1, pool.pages.shape[-1])
        self.b, self.s_q, self.h_q = len(lengths), s_q, h_q
        self.causal = s_q > 1
        self.scale = self.d_qk**-0.5
        self.lengths = list(lengths)
        self.total, self.longest = sum(self.lengths), max(self.lengths)
        random = torch.Generator(DEVICE).manual_seed(self.total * 128 + s_q * 5 + h_q * 3)
        self.cache_seqlens = torch.tensor(self.lengths, dtype=torch.int32, device=DEVICE)
        self.q = torch.randn(self.b, s_q, h_q, self.d_qk, generator=random, device=DEVICE).mul_(sigma).to(self.dtype)
        count = min(MAX_TABLES, int(ROTATE_BYTES / self.kv_bytes) + 1)
        self.tables = self._block_tables(max(least_tables, count), random)

    def _block_tables(self, count: int, random: torch.Generator) -> list[torch.Tensor]:
        """Tables without a common page where the pages suffice. Entries behind a request's last page are 0."""
        pages = -(-self.cache_seqlens.long() // self.page)
        ends = pages.cumsum(0)
        used = sum(-(-length // self.page) for length in self.lengths)
        column = torch.arange(-(-self.longest // self.page), device=DEVICE)
        index = (ends - pages)[:, None] + column
        index = torch.where(column < pages[:, None], index, -1)
        blocks = max(TABLE_PAGES * PAGE // self.page, used)
        if blocks > len(self.kv_cache):
            raise ValueError(f"the pool has {len(self.kv_cache)} pages, {blocks} are needed")

        tables: list[torch.Tensor] = []
        begin = blocks
        for _ in range(count):
            if begin + used > blocks:
                order, begin = torch.randperm(blocks, generator=random, device=DEVICE, dtype=torch.int32), 0
            table = torch.where(index >= 0, order[begin + index.clamp(min=0)], 0)
            tables.append(table.int().contiguous())
            begin += used
        return tables

    def rows(self, i: int, table: torch.Tensor) -> torch.Tensor:
        """The tokens of request i."""
        pages = table[i, : -(-self.lengths[i] // self.page)].long()
        slots = pages[:, None] * self.page + torch.arange(self.page, device=pages.device)
        return self.pool.rows(slots.flatten()[: self.lengths[i]])

    @property
    def attended(self) -> int:
        """Pairs of a query token and a KV token that it attends to."""
        hidden = [(self.s_q - 1 - s) * self.causal for s in range(self.s_q)]
        return sum(max(length - h, 0) for length in self.lengths for h in hidden)

    @property
    def flop(self) -> int:
        """Of both products."""
        return 2 * self.h_q * self.attended * (self.d_qk + self.d_v)

    @property
    def kv_bytes(self) -> int:
        return self.total * self.kv_cache.shape[-1] * self.kv_cache.element_size()
