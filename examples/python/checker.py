"""Compares decode calls of sampled steps with the float64 reference, within the bounds of the test suite."""

import pathlib
import sys

import numpy as np

from arrays import Array
from batcher import PAGE_SIZE, pages_for

# The reference and the bounds have one home: the tests of this checkout.
sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "tests"))

import compare
from ops.dense_decode import oracle

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

    def check(self, calls: list[tuple[Array, ...]]) -> None:
        """`calls`: arguments and results of the layers of one step, as `Server.step` returns them."""
        batch = calls[0][0].shape[0]
        rows = self._rng.choice(batch, min(ROWS, batch), replace=False)
        for layer, call in enumerate(calls):
            if (complaint := self._complaint(rows, call)) and not self.complaint:
                self.complaint = f"layer {layer}, rows {rows.tolist()} of the batch: {complaint}"

    def _complaint(self, rows: np.ndarray, call: tuple[Array, ...]) -> str:
        query, cache, block_table, cache_seqlens, _, out, lse = call
        host, taken = self._arrays.to_host, self._arrays.from_host(rows)
        lengths = host(cache_seqlens[taken])
        # Only the pages in use travel to the host; they get new numbers there.
        table = host(block_table[taken])[:, : pages_for(int(lengths.max()))]
        used = np.arange(table.shape[1]) < -(-lengths[:, None] // PAGE_SIZE)
        pages, numbers = np.unique(table[used], return_inverse=True)
        renumbered = np.full(table.shape, -1)
        renumbered[used] = numbers
        kv_cache = host(cache[self._arrays.from_host(pages)])
        reference, reference_lse = oracle.dense_decode(host(query[taken]), kv_cache, renumbered, lengths)

        result, result_lse = host(out[taken]), host(lse[taken])
        self.compared += len(rows)
        self.worst_error = max(self.worst_error, compare.relative_error(result, reference))
        self.worst_lse_error = max(self.worst_lse_error, float(np.abs(result_lse - reference_lse).max()))
        try:
            compare.check_out(result, reference, self.tolerance)
            compare.check_lse(result_lse, reference_lse, self.tolerance)
        except AssertionError as error:
            return str(error)
        return ""
