"""The error bounds hold for logits of any magnitude, and for latents and logits of any size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import compare
from buffers import DTYPES
from ops.sparse_decode import calls, strategies
from ops.sparse_decode.bounds import BY_DTYPE
from ops.sparse_decode.data import make_data, rows_of
from ops.sparse_decode.relations import STEP
from properties import share


def longest(rows) -> float:
    """The largest norm of rows; dead ones hold NaN."""
    norms = np.linalg.norm(rows.astype(np.float64), axis=-1)
    return float(np.max(norms, where=np.isfinite(norms), initial=0))


@share(1 / 4)
@given(data=st.data())
def test_bounds_follow_the_magnitude_of_the_logits(backend, data):
    scale = data.draw(st.sampled_from((1.0, None, 1e-3, 0.3, 4.0, 20.0)))
    case = data.draw(strategies.cases(backend, softmax_scale=scale, with_lse=True))
    numbers = make_data(case)
    # Queries that resemble the keys have logits as large as their norms allow.
    factor, alike = data.draw(st.sampled_from((1.0, 0.1, 3.0))), data.draw(st.sampled_from((0.0, 0.3, 0.9)))
    keys = rows_of(case.main, numbers.caches[""].kv_cache)
    live = keys[np.isfinite(keys).all(1)]
    common = live[0] if len(live) else np.ones(case.d_qk)
    q = factor * ((1 - alike) * numbers.q.astype(np.float64) + alike * common)
    numbers = replace(numbers, q=q.astype(numbers.q.dtype))
    norms = [longest(rows_of(cache, numbers.caches[prefix].kv_cache)) for prefix, cache in case.caches.items()]
    magnitude = compare.logit_magnitude(case.softmax_scale, case.d_qk, longest(numbers.q), max(norms))
    bound = BY_DTYPE[case.dtype].at(magnitude).on(backend.name)
    calls.check_result(case, numbers, calls.run(case, backend, numbers), bound)


@pytest.mark.parametrize("softmax_scale", [1e-30, 1.0, 1e4])
def test_logits_of_any_size(backend, softmax_scale):
    """One-hot queries against whole numbers: every logit is exact, so large ones are no excuse."""
    case = STEP.but(softmax_scale=softmax_scale, sink=None)
    numbers = make_data(case)
    numbers.q[...] = 0
    numbers.q[..., 5] = 1
    whole = np.rint(np.nan_to_num(numbers.caches[""].kv_cache.astype(np.float32), nan=0) * 4)
    numbers.caches[""].kv_cache[...] = whole.astype(DTYPES["bfloat16"])
    calls.check_result(case, numbers, calls.run(case, backend, numbers), BY_DTYPE["bfloat16"].on(backend.name))


@pytest.mark.parametrize("power", [-60, 60, 100])
def test_latents_of_any_size(backend, power):
    """Logits come from the RoPE part alone; the values scale with their latents, as powers of two do."""
    case = STEP.but(out_dtype="float32")
    numbers = make_data(case)
    numbers.q[..., :512] = 0
    scaled = numbers.caches[""].kv_cache.copy()
    scaled[..., :512] *= DTYPES["bfloat16"].type(2.0**power)
    once = calls.run(case, backend, numbers)
    other = calls.run(case, backend, replace(numbers, caches={"": replace(numbers.caches[""], kv_cache=scaled)}))
    assert other.lse.tobytes() == once.lse.tobytes()
    np.testing.assert_array_equal(other.out, once.out * np.float32(2.0**power))
