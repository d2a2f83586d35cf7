"""What every attention call gives: rows and their log-sum-exps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
