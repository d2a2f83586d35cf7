"""Batch-invariant calls of every kind of cut, whose rows must have the same bits: torch tensors, pages used many times.

Also a program of its own, for the faults of the kernels: ends with status 0 if all bits are the same.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch

import flashmla

PAGES, PAGE = 700, 64
# Edges of pieces (2,048 tokens, from 16,384 on 4,096), nodes (8 pieces: 16,384, then 32,768 more) and units.
LENGTHS = (1, 64, 2048, 2049, 4096, 7000, 14_337, 16_384, 16_385, 20_480, 30_001, 49_152, 49_153, 81_921)


@dataclass(frozen=True)
class Kind:
    """What calls have in common."""

    h_q: int = 128
    d_qk: int = 576
    dtype: torch.dtype = torch.bfloat16
    out_dtype: str | None = None
    page: int = PAGE

    @property
    def d_v(self) -> int:
        return 256 if self.d_qk == 320 else 512


KINDS = (
    Kind(),
    Kind(h_q=16),
    Kind(h_q=64, out_dtype="float32"),
    Kind(dtype=torch.float16, page=16),
    Kind(d_qk=320),
    Kind(h_q=16, d_qk=512, page=128, out_dtype="float32"),
)


class Requests:
    """Requests of up to `capacity` tokens, with queries and pages of their own numbers."""

    def __init__(self, kind: Kind, lengths: tuple[int, ...], capacity: int, s_q: int = 1, seed: int = 0) -> None:
        made = torch.Generator(device="cuda").manual_seed(seed)
        self.kind, self.s_q = kind, s_q
        blocks = PAGES * PAGE // kind.page
        shape = (blocks, kind.page, 1, kind.d_qk)
        self.cache = torch.randn(shape, device="cuda", generator=made).to(kind.dtype)
        shape = (len(lengths), s_q, kind.h_q, kind.d_qk)
        self.q = torch.randn(shape, device="cuda", generator=made).to(kind.dtype)
        shape = (len(lengths), -(-capacity // kind.page))
        self.table = torch.randint(0, blocks, shape, dtype=torch.int32, device="cuda", generator=made)
        self.lengths = torch.tensor(lengths, dtype=torch.int32, device="cuda")

    def decode(self, picks=None, tokens=slice(None), hidden: int = 0, **options):
        """Rows of some requests and of some of their query tokens, behind which `hidden` tokens of the cache lie."""
        picks = list(range(len(self.lengths))) if picks is None else picks
        q = self.q[picks][:, tokens].contiguous()
        options |= {"causal": True, "batch_invariant": True, "out_dtype": self.kind.out_dtype}
        lengths = self.lengths[picks] - hidden
        return flashmla.dense_decode(q, self.cache, self.table[picks].contiguous(), lengths, **options)


def same(found, wanted, what: object) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)), what


def check_batches(kind: Kind) -> None:
    """Alone a request is cut among all blocks, in a crowd hardly any is."""
    requests = Requests(kind, LENGTHS * 8, 90_000)
    out, lse = requests.decode()
    assert torch.isfinite(out).all()
    for i in range(len(LENGTHS)):
        same(requests.decode([i]), (out[i : i + 1], lse[i : i + 1]), (kind, "alone", LENGTHS[i]))
    few = [13, 7, 27, 12]
    same(requests.decode(few), (out[few], lse[few]), (kind, "few"))


def check_chunks(kind: Kind) -> None:
    """A query token has the same bits whatever tokens are beside it."""
    chunk = 5
    requests = Requests(kind, (16_389, 49_157, 2050, 5), 60_000, s_q=chunk, seed=1)
    out, lse = requests.decode()
    for first, end in ((0, 1), (0, 2), (1, 3), (4, 5), (2, 5)):
        tokens = slice(first, end)
        found = requests.decode(tokens=tokens, hidden=chunk - end)
        same(found, (out[:, tokens], lse[..., tokens]), (kind, "tokens", first, end))


def check_levels(kind: Kind) -> None:
    """Requests so long that nodes are stored, and so many of them that nothing is."""
    lengths = (1_000_001, 900_000, 786_433, 1_048_576) * 10
    requests = Requests(kind, lengths, 1 << 20, seed=2)
    out, lse = requests.decode()
    for picks in ([0], [2, 3], [1, 0, 3, 2, 5]):
        same(requests.decode(picks), (out[picks], lse[picks]), (kind, "long", picks))


def check_stale_plans(kind: Kind) -> None:
    """A plan for other lengths with as many pieces gives the same bits; for any lengths right rows."""
    requests = Requests(kind, (30_000, 20_000, 100, 49_000), 60_000, seed=3)
    arguments = (requests.q, requests.cache, requests.table, requests.lengths)
    plan = flashmla.plan_decode(*arguments, causal=True, batch_invariant=True)
    requests.lengths += torch.tensor([300, -1000, 1900, 150], dtype=torch.int32, device="cuda")
    same(requests.decode(plan=plan), requests.decode(), (kind, "a plan of as many pieces"))
    for lengths in ((60_000, 1, 0, 2048), (0, 60_000, 60_000, 16_385)):
        requests.lengths.copy_(torch.tensor(lengths, dtype=torch.int32, device="cuda"))
        for a, b in zip(requests.decode(plan=plan), requests.decode(), strict=True):
            torch.testing.assert_close(a.float(), b.float(), rtol=2e-2, atol=2e-3, equal_nan=True)


CHECKS = (check_batches, check_chunks, check_levels, check_stale_plans)

if __name__ == "__main__":
    for check in CHECKS:
        check(KINDS[0])
    sys.exit(0)
