"""Compares decode calls of sampled steps with the float64 reference, within the bounds of the test suite."""

import numpy as np

from attention_calls import DenseCall, SparseCall
from reference import compare

ROWS = 2  # requests that a sampled step compares, in every layer


class Checker:
    """Judges calls; remembers the worst errors and the first complaint."""

    def __init__(self, arrays: object, seed: int) -> None:
        self._arrays = arrays
        self._rng = np.random.default_rng(seed)
        self.tolerance = compare.tolerance("dense_decode", arrays.dtype_name)
        self.worst_error = 0.0  # ||out - reference|| / ||reference|| over the compared requests of a call
        self.worst_lse_error = 0.0
        self.compared = 0  # outputs of one request in one layer
        self.complaint = ""

    def check(self, calls: list[DenseCall] | list[SparseCall]) -> None:
        """`calls`: those of the layers of one step."""
        batch = calls[0].query.shape[0]
        rows = self._rng.choice(batch, min(ROWS, batch), replace=False)
        for layer, call in enumerate(calls):
            if (complaint := self._complaint(rows, call)) and not self.complaint:
                self.complaint = f"layer {layer}, rows {rows.tolist()} of the batch: {complaint}"

    def _complaint(self, rows: np.ndarray, call: DenseCall | SparseCall) -> str:
        reference, reference_lse = call.expected(self._arrays, rows)
        host, taken = self._arrays.to_host, self._arrays.from_host(rows)
        result, result_lse = host(call.out[taken]), host(call.lse[taken])
        self.compared += len(rows)
        self.worst_error = max(self.worst_error, compare.relative_error(result, reference))
        self.worst_lse_error = max(self.worst_lse_error, float(np.abs(result_lse - reference_lse).max()))
        try:
            compare.check_out(result, reference, self.tolerance)
            compare.check_lse(result_lse, reference_lse, self.tolerance)
        except AssertionError as error:
            return str(error)
        return ""
