"""The reference of merge_states: a weighted sum in float64. Imports NumPy only."""

from __future__ import annotations

import numpy as np


def merge_states(outs, lses, *, lse_base2=False, empty_lse=np.inf):
    """Joins attention over disjoint parts: outs (n, ..., s_q, h_q, d_v), lses (n, ..., h_q, s_q), any leading axes.

    An infinite lse of either sign marks an empty part, whose out is not used. Returns (out, lse), float64.
    """
    base = 2.0 if lse_base2 else np.e
    lses = np.array(lses, np.float64)
    used = ~np.isinf(lses)
    finite = np.where(used, lses, -np.inf)
    top = np.where(used.any(0), finite.max(0), 0.0)
    weights = base ** (finite - top)
    sums = weights.sum(0)
    some = used.any(0)
    lse = np.where(some, np.log(np.where(some, sums, 1)) / np.log(base) + top, empty_lse)
    weights = np.swapaxes(weights / np.where(some, sums, 1), -1, -2)[..., None]
    parts = np.where(weights > 0, np.array(outs, np.float64), 0)
    return (weights * parts).sum(0), lse
