"""Calls for values on the device that change or make no sense; see gpu/changing_values.py and gpu/garbage_plans.py."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import flashmla
from gpu.changing_values import Step
from ops.append_kv.oracle import FORMATS
from ops.sparse_decode.case import Cache, SparseCase
from ops.sparse_decode.relations import MIXED, STEP, TWOFOLD

UNIT, SLOTS, TOPK, EXTRA_PAGE, EXTRA_TOPK = 64, 6400, 2048, 6, 130
LONG = SparseCase(main=Cache(num_blocks=40, topk=2048, lengths=(2048, 5, 700)), batch=3, s_q=2, h_q=128, given=("lse",))
QUANTISED = LONG.but(kv_format="v32", s_q=9, h_q=64, extra=Cache("v32", num_blocks=50, page_size=7, topk=130))


def planned() -> list[tuple[SparseCase, int, int]]:
    """Cases, and about how many tiles and units their schedules number."""
    mixed = QUANTISED.but(extra=QUANTISED.extra.but(kv_format="bf16"))
    cases = (STEP, TWOFOLD, MIXED, LONG, QUANTISED, QUANTISED.but(batch_invariant=True), mixed)
    return [(case, 2 * case.batch * case.s_q, case.main.topk // UNIT + 1) for case in cases]


def cache(kv_format: str, page_size: int, made: torch.Generator) -> torch.Tensor:
    """SLOTS tokens."""
    columns = FORMATS[kv_format].columns if kv_format in FORMATS else 576
    rows = torch.randn(SLOTS // page_size * page_size, columns, device="cuda", generator=made).bfloat16()
    if kv_format == "bf16":
        return rows.view(-1, page_size, 1, columns)
    return flashmla.quantize_kv(rows, kv_format=kv_format, page_size=page_size)


def step(
    batch: int,
    s_q: int,
    h_q: int,
    *,
    varlen: bool,
    kv_format: str,
    twofold: bool,
    dtype: torch.dtype = torch.int32,
    extra_format: str | None = None,
) -> Step:
    made = torch.Generator(device="cuda").manual_seed(batch * h_q + s_q)
    tokens = (batch * s_q,) if varlen else (batch, s_q)

    def drawn(shape: tuple[int, ...], high: int, kind: torch.dtype = torch.int32) -> torch.Tensor:
        return torch.randint(0, high, shape, dtype=kind, device="cuda", generator=made)

    kv_cache = cache(kv_format, 64, made)
    q = torch.randn(*tokens, h_q, FORMATS[kv_format].columns if kv_format in FORMATS else 576, device="cuda").bfloat16()
    indices, lengths = drawn((*tokens, TOPK), SLOTS, dtype), drawn((batch,), TOPK + 1)
    victims = {"indices": (indices.view(torch.int32), SLOTS), "lengths": (lengths, TOPK + 1)}
    planned: dict = {"topk_length": lengths}
    called: dict = {"kv_format": kv_format}
    if twofold:
        extra, extra_lengths = drawn((*tokens, EXTRA_TOPK), SLOTS - EXTRA_PAGE, dtype), drawn((batch,), EXTRA_TOPK + 1)
        victims |= {"extra indices": (extra.view(torch.int32), SLOTS), "extra lengths": (extra_lengths, EXTRA_TOPK + 1)}
        planned |= {"extra_indices": extra, "extra_topk_length": extra_lengths}
        called["extra_kv_format"] = extra_format or kv_format
        called["extra_kv_cache"] = cache(called["extra_kv_format"], EXTRA_PAGE, made)
    if varlen:
        offsets = torch.arange(0, batch * s_q + 1, s_q, dtype=torch.int32, device="cuda")
        planned |= {"cu_seqlens_q": offsets, "max_seqlen_q": s_q}
        victims["offsets"] = (offsets, batch * s_q + 1)
    label = f"{kv_format} {batch} {s_q} {h_q}" + " varlen" * varlen + " twofold" * twofold
    return Step(
        *(label, flashmla.sparse_decode, (q, kv_cache, indices), planned | called),
        *(flashmla.plan_sparse_decode, (q, indices), planned, victims),
        units=TOPK // UNIT + 1,
    )


def steps() -> Iterator[Step]:
    """One block of heads and two, split query tokens and whole ones, of bf16 rows and of codes."""
    for kv_format in ("bf16", "v32"):
        for batch, s_q, h_q in ((24, 1, 128), (40, 1, 16), (3, 8, 64), (6, 9, 128)):
            for varlen in (False, True):
                yield step(batch, s_q, h_q, varlen=varlen, kv_format=kv_format, twofold=s_q > 1)
    yield step(4, 8, 64, varlen=True, kv_format="model1", twofold=True, dtype=torch.int64)
    for batch, s_q, h_q in ((3, 8, 64), (6, 9, 128)):
        yield step(batch, s_q, h_q, varlen=True, kv_format="v32", twofold=True, extra_format="bf16")
