"""Errors of results of a dense decode problem, against float64 over the tokens as they are attended."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from problem import Problem

Results = tuple[torch.Tensor, torch.Tensor]  # out, lse


def errors(p: Problem, results: Sequence[Results]) -> list[tuple[float, float]]:
    """Of each: (||out - ref|| / ||ref||, largest error of lse). They are of the first block table."""
    wrong, lse_wrong, norm = [0.0] * len(results), [0.0] * len(results), 0.0
    for i in range(p.b):
        ref, lse_ref = expected(p, i)
        norm += float(ref.square().sum())
        for k, (out, lse) in enumerate(results):
            wrong[k] += float((out[i].double() - ref).square().sum())
            lse_wrong[k] = max(lse_wrong[k], float((lse[i].T.double() - lse_ref).abs().max()))
    return [((each / norm) ** 0.5, largest) for each, largest in zip(wrong, lse_wrong, strict=True)]


def expected(p: Problem, i: int) -> Results:
    """Of request i, request by request because float64 is large."""
    rows = p.rows(i, p.tables[0]).double()
    logits = torch.einsum("shd,td->sht", p.q[i].double(), rows) * p.scale
    if p.causal:
        bound = len(rows) - (p.s_q - 1 - torch.arange(p.s_q, device=rows.device))
        hidden = torch.arange(len(rows), device=rows.device)[None] >= bound[:, None]
        logits.masked_fill_(hidden[:, None], -torch.inf)
    return torch.softmax(logits, -1) @ rows[:, : p.d_v], logits.logsumexp(-1)
