"""Calls for values on the device that change or make no sense; see gpu/changing_values.py and gpu/garbage_plans.py."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import flashmla
from gpu.changing_values import Step
from gpu.steps import STEP
from ops.dense_decode.case import Case

PAGE, PAGES, TABLE_PAGES, LONG_TABLE_PAGES = 64, 400, 40, 900


def planned() -> list[tuple[Case, int, int]]:
    """Cases, and about how many tiles and units their schedules number."""
    cases = (
        STEP,
        STEP.but(h_q=16, h_kv=1, s_q=1, lengths=(300, 5, 64, 0, 384)),
        STEP.but(dtype="float16", h_q=128, h_kv=1, s_q=3),
        STEP.but(s_q=3, cu_seqlens_q=(0, 3, 5), total_q=6, page_size=16, num_blocks=60, max_blocks=24),
        STEP.but(lengths=(3000, 71), num_blocks=60, max_blocks=50, batch_invariant=True),
        STEP.but(h_q=16, h_kv=1, s_q=1, lengths=(40_000, 71), num_blocks=700, max_blocks=640, batch_invariant=True),
        STEP.but(lengths=(3000, 71), num_blocks=60, max_blocks=50, batch_invariant=True, window=700),
    )
    return [(case, len(case.lengths) * case.h_kv * 2, case.max_blocks) for case in cases]


def step(batch: int, s_q: int, h_q: int, *, varlen: bool, table_pages: int = TABLE_PAGES, **options: bool) -> Step:
    made = torch.Generator(device="cuda").manual_seed(batch * h_q + s_q)
    kv_cache = torch.randn(PAGES, PAGE, 1, 576, device="cuda", generator=made).bfloat16()
    tokens = (batch * s_q,) if varlen else (batch, s_q)
    q = torch.randn(*tokens, h_q, 576, device="cuda", generator=made).bfloat16()
    table = torch.randint(0, PAGES, (batch, table_pages), dtype=torch.int32, device="cuda", generator=made)
    lengths = torch.randint(0, PAGE * table_pages, (batch,), dtype=torch.int32, device="cuda", generator=made)
    victims = {"lengths": (lengths, PAGE * table_pages)}
    if options.get("batch_invariant") is None:
        victims["table"] = (table, PAGES)
    given: dict = {"causal": True} | options
    if varlen:
        offsets = torch.arange(0, batch * s_q + 1, s_q, dtype=torch.int32, device="cuda")
        given |= {"cu_seqlens_q": offsets, "max_seqlen_q": s_q}
        victims["offsets"] = (offsets, batch * s_q + 1)
    inputs = (q, kv_cache, table, lengths)
    label = f"{batch} {s_q} {h_q}" + " varlen" * varlen + "".join(f" {name}" for name in options)
    return Step(
        *(label, flashmla.dense_decode, inputs, given, flashmla.plan_decode, inputs, given, victims),
        units=table_pages,
    )


def steps() -> Iterator[Step]:
    """Every kind of tile: alone, in step, a cluster; and batch-invariant work of several nodes."""
    for batch, s_q, h_q in ((24, 1, 128), (40, 1, 16), (6, 3, 128), (3, 8, 64)):
        for varlen in (False, True):
            yield step(batch, s_q, h_q, varlen=varlen)
    for batch, s_q, h_q in ((3, 1, 128), (30, 1, 16), (2, 3, 64)):
        yield step(batch, s_q, h_q, varlen=False, table_pages=LONG_TABLE_PAGES, batch_invariant=True)
