"""What attention calls have in common: whose the query tokens are, and what is given for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ops.dense_decode import oracle


class QueryTokens:
    """The query tokens of a case: `batch` requests of `s_q`, or with `cu_seqlens_q` `total_q` tokens in all."""

    batch: int
    s_q: int
    cu_seqlens_q: tuple[int, ...] | None
    total_q: int
    d_qk: int
    d_v: int
    parted: bool

    def parts_of_q(self, q: np.ndarray) -> dict[str, np.ndarray]:
        """The tensors that all columns of q are given as."""
        return {"q": q[..., : self.d_v], "q_rope": q[..., self.d_v :]} if self.parted else {"q": q}

    def widths_of_q(self) -> dict[str, int]:
        """Columns of both tensors, given or not."""
        return {"q": self.d_v if self.parted else self.d_qk, "q_rope": self.d_qk - self.d_v}

    @property
    def most_queries(self) -> int:
        """Query tokens that a request may have: max_seqlen_q is no more than all tokens."""
        return self.s_q if self.cu_seqlens_q is None else min(self.s_q, self.total_q)

    def query_rows(self, i: int, cu_seqlens_q=None) -> slice:
        """The query tokens of request i: in q itself with cu_seqlens_q, the case's or other ones, else in q[i]."""
        offsets = self.cu_seqlens_q if cu_seqlens_q is None else cu_seqlens_q
        return slice(0, self.s_q) if offsets is None else oracle.query_rows(offsets, i, self.total_q, self.s_q)

    def owners(self, cu_seqlens_q=None) -> np.ndarray:
        """How many requests each query token belongs to, with cu_seqlens_q: the case's, or other ones."""
        owners = np.zeros(self.total_q, int)
        for i in range(self.batch):
            owners[self.query_rows(i, cu_seqlens_q)] += 1
        return owners


def make_sink(kind: str | None, heads: int, rng: np.random.Generator) -> np.ndarray | None:
    """attn_sink of a case: None; "some": of the size of log-sum-exps; "wild": infinities, NaN and limits among them."""
    if kind is None:
        return None
    sink = (2 + 3 * rng.standard_normal(heads)).astype(np.float32)
    if kind == "wild":
        wild = rng.random(heads) < 0.5
        values = np.array([np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-40, 88.8, -88.8], np.float32)
        sink[wild] = rng.choice(values, int(wild.sum()))
    return sink


@dataclass
class Result:
    """What a call wrote. Query tokens of no request hold zeros here, whatever memory holds."""

    out: np.ndarray
    lse: np.ndarray | None  # None: the caller did not want it

    def bits(self) -> tuple[bytes, bytes]:
        """For comparisons bit by bit."""
        return self.out.tobytes(), b"" if self.lse is None else self.lse.tobytes()

    def request(self, case, i: int) -> Result:
        """The part of one request of a call with a batch or, if the case has cu_seqlens_q, with packed queries."""
        rows = case.query_rows(i)
        if case.cu_seqlens_q is None:
            return Result(self.out[i], None if self.lse is None else self.lse[i])
        return Result(self.out[rows], None if self.lse is None else self.lse[:, rows])


def same_bits(first: Result, second: Result) -> None:
    assert first.bits() == second.bits(), "results differ in some bit"
