"""Sequences of many pages: what a rounding error of each page adds up to. The reference is float64 on the device."""

from __future__ import annotations

import pytest
import torch

import compare
import flashmla

PAGES = 2048


@pytest.mark.parametrize("num_splits", [0, 1, 32, 1024])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("h_q", [16, 128])
def test_131072_tokens(h_q, dtype, num_splits, figure):
    torch.manual_seed(h_q)
    kind = getattr(torch, dtype)
    cache = torch.randn(PAGES, 64, 1, 576, device="cuda").to(kind)
    table = torch.randperm(PAGES, device="cuda").int()[None]
    q = torch.randn(1, 1, h_q, 576, device="cuda").to(kind)
    lengths = torch.tensor([PAGES * 64 - 5], dtype=torch.int32, device="cuda")
    plan = flashmla.plan_decode(q, cache, table, lengths, num_splits=num_splits)
    out, lse = flashmla.dense_decode(q, cache, table, lengths, plan=plan)

    rows = cache[table[0].long()].view(-1, 576)[: int(lengths[0])].double()
    logits = q[0, 0].double() @ rows.T * 576**-0.5
    want_lse = torch.logsumexp(logits, -1)
    want_out = torch.softmax(logits, -1) @ rows[:, :512]
    bound = compare.tolerance("dense_decode", dtype)
    error = (lse[0, :, 0].double() - want_lse).abs().max().item()
    figure(f"lse error, {dtype}, h_q {h_q}, 131,067 tokens, num_splits {num_splits}", f"{error:.1e}")
    compare.check_lse(lse.double().cpu().numpy(), want_lse[None, :, None].cpu().numpy(), bound)
    relative = ((out[0, 0].double() - want_out).norm() / want_out.norm()).item()
    assert relative <= {"bfloat16": 3e-3, "float16": 5e-4}[dtype]


@pytest.mark.parametrize("num_splits", [0, 1, 3, 40])
def test_an_attended_nan_spoils_its_request_only(num_splits):
    torch.manual_seed(0)
    cache = torch.randn(40, 64, 1, 576, device="cuda").bfloat16()
    table = torch.arange(40, dtype=torch.int32, device="cuda").view(2, 20)
    lengths = torch.tensor([1280, 1280], dtype=torch.int32, device="cuda")
    q = torch.randn(2, 1, 128, 576, device="cuda").bfloat16()
    plan = flashmla.plan_decode(q, cache, table, lengths, num_splits=num_splits)
    clean, clean_lse = flashmla.dense_decode(q, cache, table, lengths, plan=plan)
    cache[25, 7, 0, 3] = torch.nan
    out, lse = flashmla.dense_decode(q, cache, table, lengths, plan=plan)
    assert torch.equal(out[0], clean[0])
    assert torch.equal(lse[0], clean_lse[0])
    assert out[1].isnan().all()
    assert lse[1].isnan().all()
