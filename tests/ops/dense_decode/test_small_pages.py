"""Pages of a few tokens: how tokens lie in pages does not show, and no table leads outside the cache."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest

import environment
from attention import same_bits
from gpu.kernel_rows import FORCE
from ops.dense_decode import calls
from ops.dense_decode.case import INT32_MAX, INT32_MIN, Case, make_data

PAGES = Case(s_q=3, h_q=16, num_blocks=30, max_blocks=8, lengths=(500, 0, 65, 448), causal=True, given=("lse",))
SIZES = (64, 1, 2, 4, 8, 32)
SHORT = {"bfloat16": "bf16", "float16": "fp16"}


def in_pages_of(size: int, case: Case, data):
    """The same tokens in smaller pages."""
    parts = case.page_size // size
    table = (data.block_table[:, :, None] * parts + np.arange(parts)).reshape(case.batch, -1).astype(np.int32)
    small = case.but(page_size=size, num_blocks=case.num_blocks * parts, max_blocks=case.max_blocks * parts)
    return small, replace(data, kv_cache=data.kv_cache.reshape(small.shapes()["kv_cache"]), block_table=table)


def gathering(backend, case: Case):
    """On a GPU the kernel that gathers rows, whatever the pages are."""
    if backend.name != "gpu":
        return contextlib.nullcontext()
    return environment.variable(FORCE, f"dense_decode_{SHORT[case.dtype]}_{case.d_qk}_cluster1_gather")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "changes", [{}, {"h_q": 128, "s_q": 1}, {"d_qk": 320, "h_kv": 2}, {"d_qk": 512, "window": 70}, {"d_qk": 160}]
)
def test_the_size_of_pages_does_not_show(backend, dtype, changes):
    case = PAGES.but(dtype=dtype, **changes)
    numbers = make_data(case)
    results = []
    for size in SIZES:
        small, data = in_pages_of(size, case, numbers)
        calls.check_result(small, data, calls.run(small, backend, data))
        with gathering(backend, case):
            results.append(calls.run(small, backend, data))
    for result in results[1:]:
        same_bits(results[0], result)


@pytest.mark.parametrize("page_size", [1, 3, 8])
def test_tables_of_garbage(backend, page_size):
    """Pages outside are zeros, of which only those within the lengths count; behind them are any numbers."""
    case = PAGES.but(page_size=page_size, num_blocks=700, max_blocks=600 // page_size, bad_pages=True)
    numbers = make_data(case)
    rng = np.random.default_rng(6)
    table = numbers.block_table.copy()
    for i, length in enumerate(case.lengths):
        behind = table[i, -(-length // page_size) :]
        behind[:] = rng.choice([INT32_MIN, -1, 700, INT32_MAX], behind.shape)
    inside = table[0, :3]
    inside[:] = (INT32_MIN, INT32_MAX, 700)
    data = replace(numbers, block_table=table)
    calls.check_result(case, data, calls.run(case, backend, data))
