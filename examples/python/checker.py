"""Compares attention in sampled steps with the float64 reference, within the bounds of the test suite."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from attended import Attended, places
from reference import compare

TOKENS = 2  # that a sampled step compares, in every layer


class Checker:
    """Judges calls; remembers the worst errors and the first complaint."""

    def __init__(self, arrays: Any, seed: int, operation: str) -> None:
        self._arrays, self._operation = arrays, operation
        self._rng = np.random.default_rng(seed)
        self.worst_error = 0.0  # ||out - reference|| / ||reference|| of a token
        self.worst_share = 0.0  # of its bound
        self.compared = 0  # tokens in one layer
        self.complaint = ""

    def check(self, seen: Sequence[Attended], counts: Sequence[int], lengths: Sequence[int]) -> None:
        """`seen`: the calls of a step, in which counts[i] tokens made sequence i lengths[i] long."""
        sequences, ends = places(counts, lengths)
        for layer, call in enumerate(seen):
            for row in self._rng.choice(len(call.tokens), min(TOKENS, len(call.tokens)), replace=False):
                token = call.tokens[row]
                complaint = self._complaint(call, int(row), int(sequences[token]), int(ends[token]))
                self.complaint = self.complaint or (complaint and f"layer {layer}, token {token}: {complaint}")

    def _complaint(self, call: Attended, row: int, sequence: int, length: int) -> str:
        expected, query, keys = call.expected(self._arrays, row, sequence, length)
        norms = (float(np.linalg.norm(of, axis=-1).max()) for of in (query, keys))
        magnitude = compare.logit_magnitude(call.softmax_scale, query.shape[-1], *norms)
        bound = compare.tolerance(self._operation, self._arrays.dtype_name).at(magnitude)
        result = self._arrays.to_host(call.out[row])
        error = compare.relative_error(result, expected)
        self.compared += 1
        self.worst_error = max(self.worst_error, error)
        self.worst_share = max(self.worst_share, error / bound.norm)
        try:
            compare.check_out(result, expected, bound)
        except AssertionError as failure:
            return str(failure)
        return ""
