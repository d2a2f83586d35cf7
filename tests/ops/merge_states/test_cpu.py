"""merge_states on the CPU: every instruction set and any number of threads."""

from __future__ import annotations

import numpy as np
import pytest

import compare
import flashmla
from buffers import DTYPES
from isas import NAMES as ISAS
from ops.merge_states import oracle


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
# Shorter than a vector, not a multiple of the longest one, and more than are summed at a time.
@pytest.mark.parametrize("d_v", [8, 24, 512, 1032])
def test_merge_states_is_right(isa, dtype, d_v, monkeypatch):
    monkeypatch.setenv("FLASHMLA_CPU_ISA", isa)
    draw = np.random.default_rng(5)
    outs = draw.standard_normal((3, 2, 2, 4, d_v)).astype(DTYPES[dtype])
    lses = draw.standard_normal((3, 2, 4, 2)).astype(np.float32)
    want, want_lse = oracle.merge_states(outs.astype(np.float64), lses)
    bound = compare.tolerance("merge_states", dtype)
    for parts in ((outs, lses), (list(outs), list(lses))):
        out, lse = flashmla.merge_states(*parts)
        compare.check_out(out.astype(np.float64), want, bound)
        compare.check_lse(lse.astype(np.float64), want_lse, bound)


def bits(result) -> list[bytes]:
    return [array.tobytes() for array in result]


def test_merged_states_do_not_depend_on_the_number_of_threads():
    draw = np.random.default_rng(4)
    outs = draw.standard_normal((5, 3, 2, 100, 512), np.float32)
    lses = draw.standard_normal((5, 3, 100, 2), np.float32)
    one, *others = (bits(flashmla.merge_states(outs, lses, num_threads=n)) for n in (1, 2, 3, 100))
    assert all(other == one for other in others)
