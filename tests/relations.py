"""What tests of relations between calls share."""

from __future__ import annotations

import numpy as np

import calls
import compare
from cases import Case

# Two requests of several pages, more query rows than one tile holds, two KV heads.
STEP = Case(s_q=2, h_q=48, h_kv=2, num_blocks=12, max_blocks=6, lengths=(300, 71), causal=True, given=("lse",), seed=7)


def same_bits(first: calls.Result, second: calls.Result) -> None:
    assert first.bits() == second.bits(), "results differ in some bit"


def close(case: Case, first: calls.Result, second: calls.Result) -> None:
    """Two results of one problem, each within the tolerance of the truth."""
    bound = calls.bound_of(case).widened(2)
    natural = np.log(2) if case.lse_base2 else 1.0
    compare.check_lse(natural * first.lse.astype(np.float64), natural * second.lse.astype(np.float64), bound)
    compare.check_out(first.out.astype(np.float64), second.out.astype(np.float64), bound)
