"""Checked by mypy, never run: what writers and readers of the KV cache take and return."""

from typing import assert_type  # type: ignore[attr-defined] # assert_type: Python 3.11

import numpy as np
from numpy.typing import NDArray

import flashmla


def caches_are_written_and_read(pages: NDArray[np.uint8], rows: NDArray[np.float16], ints: NDArray[np.int32]) -> None:
    assert_type(flashmla.append_kv(pages, rows, None, ints, kv_format="v32"), NDArray[np.uint8])
    flashmla.append_kv(pages, rows, rows, ints, kv_format="v41", unrounded_scales=False, num_threads=1)
    flashmla.append_kv(pages, rows, None, ints, kv_format="v33")  # type: ignore[arg-type]
    flashmla.quantize_kv(rows, kv_format="model1", page_size=64)
    flashmla.dequantize_kv(pages, kv_format="v32", out_dtype="float32")
    flashmla.gather_kv(pages, ints, ints, 7, kv_format="v32", seq_starts=ints)
