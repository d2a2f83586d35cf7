"""The main property: any legal call gives what the mathematics says and touches nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ops.sparse_decode import calls, strategies
from properties import shown_if_it_fails


@given(data=st.data())
def test_any_legal_call_is_the_oracle(backend, data):
    case = data.draw(strategies.cases(backend))
    with shown_if_it_fails(case):
        calls.check(case, backend)
