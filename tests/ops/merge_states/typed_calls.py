"""Checked by mypy, never run: what merge_states takes and returns."""

from typing import Any, assert_type  # type: ignore[attr-defined] # assert_type: Python 3.11

import numpy as np
from numpy.typing import NDArray

import flashmla


def states_are_stacked_or_listed(outs: NDArray[np.float16], lses: NDArray[np.float32]) -> None:
    out, lse = flashmla.merge_states(outs, lses, out_dtype="float32")
    assert_type(out, Any)  # stacked or a part, of whichever dtype
    assert_type(lse, Any)
    flashmla.merge_states([outs, outs], (lses, lses), out=out, lse=lse, empty_lse=float("-inf"), num_threads=1)
    flashmla.merge_states(outs, lses, 1)  # type: ignore[call-overload]
