"""The main property: any legal call gives what the mathematics says and touches nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.dense_decode import calls, strategies
from properties import share, shown_if_it_fails


@given(data=st.data())
def test_any_legal_call_is_the_oracle(backend, data):
    case = data.draw(strategies.cases(backend))
    with shown_if_it_fails(case):
        calls.check(case, backend)


@pytest.mark.parametrize("num_splits", range(1, strategies.MAX_SPLITS + 1))
def test_every_forced_split_count(backend, num_splits):
    @share(1 / 50)
    @given(data=st.data())
    def any_call(data):
        case = data.draw(strategies.cases(backend, num_splits=num_splits))
        with shown_if_it_fails(case):
            calls.check(case, backend)

    any_call()
