"""append_kv: more tokens than a GPU has warps, and rows that hold what tokens are marked with there."""

from __future__ import annotations

import numpy as np
import pytest

import c_abi
from ops.append_kv import calls, strategies
from ops.append_kv.calls import Tokens, WriteCase

MANY = 4500  # more than warps run at once


def marks(tokens: np.ndarray) -> np.ndarray:
    """What a row begins with while its token is looked for (dsl_kernels/write_kv/slots.py): a number and 0xff."""
    words = np.stack([tokens, np.full_like(tokens, -1)], 1).astype("<i4")
    return words.view(np.uint8)


def fill_rows(tokens: Tokens, first_bytes: np.ndarray) -> None:
    """Rows of the cache have these first 8 bytes before the call, slot by slot."""
    case, before = tokens.case, tokens.before.view(np.uint8).reshape(tokens.case.num_blocks, tokens.case.page_size, -1)
    row_bytes, scale_bytes = 2 * case.columns, 0
    if case.format:
        row_bytes -= case.format.quantized
        scale_bytes = case.format.scale_bytes
    row = np.arange(row_bytes, dtype=np.uint8)
    for slot, first in enumerate(first_bytes):
        row[:8] = first
        calls.put(case, before[slot // case.page_size], slot % case.page_size, row, np.zeros(scale_bytes, np.uint8))
    dtype = case.cache_dtype if case.format else case.dtype
    tokens.cache = calls.Guarded(tokens.adapter, case.cache_shape, dtype, case.cache_layout, values=tokens.before)


@pytest.mark.parametrize("kv_format", strategies.FORMATS)
@pytest.mark.parametrize("of", ["this slot", "any slot"])
def test_rows_that_look_marked(backend, kv_format, of):
    case = WriteCase(kv_format, num_tokens=600, num_blocks=12, page_size=32, outside=0.05, seed=2)
    tokens = Tokens(case, backend)
    named = np.arange(12 * 32) % case.num_tokens
    named[::7] = np.resize([case.num_tokens, 2**31 - 1, -1, -(2**31)], len(named[::7]))
    if of == "this slot":
        inside = np.flatnonzero((tokens.slots >= 0) & (tokens.slots < 12 * 32))
        named[tokens.slots[inside]] = inside
    fill_rows(tokens, marks(named))
    tokens.place_slots()
    assert tokens.c_call("append_kv", "kv_cache").run() == 0, c_abi.last_error()
    tokens.check_written(tokens.slots)


@pytest.mark.parametrize("kv_format", strategies.FORMATS)
def test_a_warp_has_several_tokens(backend, kv_format):
    """And of some slots more than one."""
    calls.check(WriteCase(kv_format, num_tokens=MANY, num_blocks=75, page_size=64, num_threads=4, seed=1), backend)


@pytest.mark.parametrize("num_slots", [1, 3, 40])
def test_a_warp_has_several_tokens_of_few_slots(backend, num_slots):
    slots = tuple(np.random.default_rng(num_slots).integers(0, num_slots, MANY).tolist())
    calls.check(WriteCase("v32", num_tokens=MANY, num_blocks=3, page_size=16, slots=slots, num_threads=4), backend)
