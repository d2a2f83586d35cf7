"""A token-sparse decode problem: queries, a cache in one of the formats, and rows that each query token selects."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from caches import PAGE_SIZE, Cache
from problem import DEVICE

import flashmla

D_V = 512
CONTEXT = 32_768  # tokens of a request, of which each query token selects
APART_BYTES = 220 << 20  # rows that rotating calls read in turn: several times an L2
ORDERS = 64


@dataclass
class Sparse:
    """batch, query tokens of a request, heads; rows that a token selects of the cache, and of an extra cache."""

    cache: Cache
    b: int
    s_q: int
    h_q: int
    topk: int = 2048
    extra: Cache | None = None
    extra_topk: int = 0
    sink: bool = False
    q: torch.Tensor = field(init=False)
    indices: list[torch.Tensor] = field(init=False)  # of calls that rotate

    def __post_init__(self) -> None:
        generator = torch.Generator(DEVICE).manual_seed(5)
        d_qk = self.cache.d_qk
        self.q = torch.randn(self.b, self.s_q, self.h_q, d_qk, generator=generator, device=DEVICE).bfloat16()
        self.scale = d_qk**-0.5
        read = self.b * self.s_q * (self.topk + self.extra_topk) * self.cache.token_bytes
        sets = max(2, min(16, -(-APART_BYTES // max(read, 1))))
        self.indices = [self._draw(self.cache, self.topk, generator) for _ in range(sets)]
        self.extra_indices = [self._draw(self.extra, self.extra_topk, generator) for _ in range(sets)]
        self.attn_sink = torch.randn(self.h_q, generator=generator, device=DEVICE) if self.sink else None

    def _draw(self, cache: Cache | None, topk: int, generator: torch.Generator) -> torch.Tensor | None:
        """Distinct random tokens of each request, whose pages lie anywhere: a stretch of one of some random orders."""
        if cache is None:
            return None
        context = min(CONTEXT, cache.tokens // self.b)
        blocks = torch.randperm(cache.tokens // PAGE_SIZE, generator=generator, device=DEVICE)
        orders = torch.rand(ORDERS, context, generator=generator, device=DEVICE).argsort(-1)
        tokens = self.b * self.s_q
        which = torch.randint(ORDERS, (tokens, 1), generator=generator, device=DEVICE)
        begin = torch.randint(context, (tokens, 1), generator=generator, device=DEVICE)
        chosen = orders[which, (begin + torch.arange(topk, device=DEVICE)) % context].view(self.b, self.s_q, topk)
        requests = torch.arange(self.b, device=DEVICE)[:, None, None]
        pages = blocks[requests * (context // PAGE_SIZE) + chosen // PAGE_SIZE]
        return (pages * PAGE_SIZE + chosen % PAGE_SIZE).int()

    def expected(self, i: int, s: int) -> torch.Tensor:
        """Rows of a query token in the first call, in float32."""
        rows = self.cache.rows(self.indices[0][i, s].long())
        if self.extra is not None:
            rows = torch.cat([rows, self.extra.rows(self.extra_indices[0][i, s].long())])
        logits = self.q[i, s].float() @ rows.T * self.scale
        if self.attn_sink is not None:
            logits = torch.cat([logits, self.attn_sink[:, None]], 1)
        return torch.softmax(logits, -1)[:, : len(rows)] @ rows[:, :D_V]

    @cached_property
    def wanted(self) -> dict[tuple[int, int], torch.Tensor]:
        """What is expected of a few tokens."""
        which = {(i, s) for i in (0, self.b // 2, self.b - 1) for s in (0, self.s_q - 1)}
        return {(i, s): self.expected(i, s) for i, s in sorted(which)}

    def error(self, out: torch.Tensor) -> float:
        """Relative error (Frobenius) over a few tokens of the first call."""
        pairs = [(out[i, s].float(), wanted) for (i, s), wanted in self.wanted.items()]
        wrong = sum(float((x - y).square().sum()) for x, y in pairs)
        return (wrong / sum(float(y.square().sum()) for _, y in pairs)) ** 0.5


def ours(
    p: Sparse, *, own_plan: bool = False, batch_invariant: bool = False, num_splits: int = 0
) -> tuple[list, torch.Tensor]:
    """Calls to time, and the output that they share.

    own_plan: every call makes its schedule. Otherwise a plan is made here, as the layers of a step share it.
    """
    options = {"kv_format": p.cache.kv_format, "attn_sink": p.attn_sink, "batch_invariant": batch_invariant}
    extra = {} if p.extra is None else {"extra_kv_cache": p.extra.pages, "extra_kv_format": p.extra.kv_format}

    def more(i: int) -> dict:
        return extra | ({"extra_indices": p.extra_indices[i]} if p.extra is not None else {})

    plan = None
    if not own_plan:
        planned = {"batch_invariant": batch_invariant, "num_splits": num_splits, "kv_format": p.cache.kv_format}
        plan = flashmla.plan_sparse_decode(p.q, p.indices[0], extra_indices=p.extra_indices[0], **planned)
    options["plan"] = plan
    size = flashmla.sparse_decode_workspace_size(p.q, p.cache.pages, p.indices[0], **options, **more(0))
    workspace = torch.empty(size, dtype=torch.uint8, device=DEVICE)
    out = torch.full((p.b, p.s_q, p.h_q, D_V), torch.nan, dtype=torch.bfloat16, device=DEVICE)
    lse = torch.empty(p.b, p.h_q, p.s_q, device=DEVICE)

    def call(i: int):
        return lambda: flashmla.sparse_decode(
            p.q, p.cache.pages, p.indices[i], softmax_scale=p.scale, out=out, lse=lse, workspace=workspace,
            **options, **more(i),
        )  # fmt: skip

    return [call(i) for i in range(len(p.indices))], out
