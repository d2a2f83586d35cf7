"""The reference: attention over selected tokens in float64, one query token at a time. Imports NumPy only.

Definition: DeepSeek-V3.2-Exp report, section 1 (the main attention, over the tokens that an indexer selects); the sink
is that of FlashMLA 9241ae3: a logit that takes part in the sum of the softmax and has no value.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Selection(NamedTuple):
    """What query tokens select from one cache."""

    rows: np.ndarray  # (slots, d_qk): the tokens of the cache, in float64
    indices: np.ndarray  # (tokens, topk): slots; one that is outside selects nothing
    lengths: np.ndarray  # (tokens,): only so many indices of each query token count

    def of(self, token: int) -> np.ndarray:
        """The rows that a query token attends; one that it names twice is there twice."""
        count = min(max(int(self.lengths[token]), 0), self.indices.shape[1])
        chosen = [int(slot) for slot in self.indices[token, :count]]
        return self.rows[[slot for slot in chosen if 0 <= slot < len(self.rows)]]


def sparse_decode(q, selections, softmax_scale=None, d_v=512, *, sink=None, lse_base2=False, empty_lse=np.inf):
    """Attention of query tokens q (tokens, h_q, d_qk) over all that they select: out (tokens, h_q, d_v), lse (tokens,
    h_q), both float64. `sink`: (h_q,).
    """
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else float(np.float32(softmax_scale))
    out = np.zeros((*q.shape[:-1], d_v))
    lse = np.full(q.shape[:-1], float(empty_lse))
    for token, queries in enumerate(q.astype(np.float64)):
        keys = np.concatenate([selection.of(token) for selection in selections])
        if len(keys) == 0:
            continue
        logits = scale * (queries @ keys.T)
        top = logits.max(axis=1)
        weights = np.exp(logits - top[:, None])
        sums = weights.sum(axis=1)
        natural = np.log(sums) + top
        out[token] = (weights / sums[:, None]) @ keys[:, :d_v]
        if sink is not None:
            with np.errstate(over="ignore"):
                out[token] *= (1 / (1 + np.exp(sink.astype(np.float64) - natural)))[:, None]
        lse[token] = natural / (np.log(2) if lse_base2 else 1)
    return out, lse
