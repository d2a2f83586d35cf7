"""The error bounds hold for logits of any magnitude, however it comes about."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import compare
from ops.dense_decode import bounds, calls, strategies
from ops.dense_decode.case import make_data
from properties import share


def longest(rows) -> float:
    """The largest norm of rows; dead ones hold NaN or infinity."""
    norms = np.linalg.norm(rows.astype(np.float64), axis=-1)
    return float(np.max(norms, where=np.isfinite(norms), initial=0))


@share(1 / 4)
@given(data=st.data())
def test_bounds_follow_the_magnitude_of_the_logits(backend, data):
    scale = data.draw(st.sampled_from((1.0, None, 1e-3, 0.3, 4.0, 20.0)))
    case = data.draw(strategies.cases(backend, softmax_scale=scale, kv_format="bf16", with_lse=True))
    numbers = make_data(case)
    # Queries that resemble the keys have logits as large as their norms allow.
    alike = data.draw(st.sampled_from((0.0, 0.3, 0.9)))
    common = np.random.default_rng(case.seed + 9).standard_normal(case.d_qk)
    for name, factors in (("q", (1.0, 0.1, 3.0)), ("kv_cache", (1.0, 0.3, 5.0))):
        values = getattr(numbers, name)
        factor = data.draw(st.sampled_from(factors))
        setattr(
            numbers, name, (factor * ((1 - alike) * values.astype(np.float64) + alike * common)).astype(values.dtype)
        )
    norms = longest(numbers.q), longest(numbers.kv_cache)
    magnitude = compare.logit_magnitude(case.softmax_scale, case.d_qk, *norms)
    bound = bounds.BY_DTYPE[case.dtype].at(magnitude).on(backend.name)
    calls.check_result(case, numbers, calls.run(case, backend, numbers), bound)
