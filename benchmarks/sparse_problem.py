"""A token-sparse decode problem: queries, a cache in one of the formats, and rows that each query token selects."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch

import flashmla

DEVICE, D_V, ROPE = "cuda", 512, 64
CONTEXT = 32_768  # tokens of a request, of which each query token selects
PAGE_SIZE = 64
COLUMNS = {"bf16": 576, "v32": 576, "v32_nope": 512, "model1": 512, "v41": 512}
TOKEN_BYTES = {"bf16": 1152, "v32": 656, "v32_nope": 528, "model1": 584, "v41": 528}
PAGE_BYTES = {"model1": 576, "v41": 512}  # a page is a multiple of so many
APART_BYTES = 220 << 20  # rows that rotating calls read in turn: several times an L2
CHUNK = 1 << 18  # rows
ORDERS = 64


class Cache:
    """A pool of random tokens in a format: standard normal numbers, halved."""

    def __init__(self, kv_format: str, tokens: int) -> None:
        self.kv_format, self.tokens = kv_format, tokens
        blocks, quantises = tokens // PAGE_SIZE, kv_format != "bf16"
        row = TOKEN_BYTES[kv_format] if quantises else COLUMNS[kv_format]
        page = PAGE_SIZE * row
        page += -page % PAGE_BYTES.get(kv_format, 1)
        dtype = torch.uint8 if quantises else torch.bfloat16
        pool = torch.zeros(blocks, page, dtype=dtype, device=DEVICE)
        self.pages = pool.as_strided((blocks, PAGE_SIZE, 1, row), (page, row, row, 1))
        generator = torch.Generator(DEVICE).manual_seed(1)
        for begin in range(0, tokens, CHUNK):
            count = min(CHUNK, tokens - begin)
            rows = (torch.randn(count, COLUMNS[kv_format], generator=generator, device=DEVICE) * 0.5).bfloat16()
            slots = torch.arange(begin, begin + count, device=DEVICE)
            flashmla.append_kv(self.pages, rows, None, slots, kv_format=kv_format)

    def rows(self, slots: torch.Tensor) -> torch.Tensor:
        """Tokens as float32; those of slots outside are zeros."""
        table = slots.clamp(0, self.tokens - 1)
        blocks, places = table // PAGE_SIZE, table % PAGE_SIZE
        pages, where = blocks.unique(return_inverse=True)
        out = torch.empty(len(pages) * PAGE_SIZE, COLUMNS[self.kv_format], dtype=torch.bfloat16, device=DEVICE)
        offsets = torch.tensor([0, len(out)], dtype=torch.int32, device=DEVICE)
        flashmla.gather_kv(self.pages, pages.int()[None], offsets, out=out, kv_format=self.kv_format)
        return out[where * PAGE_SIZE + places].float()


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
        d_qk = COLUMNS[self.cache.kv_format]
        self.q = torch.randn(self.b, self.s_q, self.h_q, d_qk, generator=generator, device=DEVICE).bfloat16()
        self.scale = d_qk**-0.5
        read = self.b * self.s_q * (self.topk + self.extra_topk) * TOKEN_BYTES[self.cache.kv_format]
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
        planned = {"batch_invariant": batch_invariant, "num_splits": num_splits}
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
