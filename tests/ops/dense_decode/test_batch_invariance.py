"""With batch_invariant the bits of one request's result do not depend on the requests beside it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention import same_bits
from ops.dense_decode import calls, strategies
from ops.dense_decode.case import gathered, make_data
from ops.dense_decode.relations import INVARIANT, check_alone
from properties import share


@share(1 / 5)
@given(data=st.data())
def test_the_batch_around_a_request_does_not_show(backend, data):
    plans = st.sampled_from(("none", "fresh"))
    case = data.draw(
        strategies.cases(backend, num_splits=0, plan=data.draw(plans), batch_invariant=True, with_lse=True)
    )
    numbers = make_data(case)
    calls.check_result(case, numbers, together := calls.run(case, backend, numbers))
    i = data.draw(st.integers(0, case.batch - 1))
    alone, lone_numbers = gathered(case, numbers, [i], data.draw(st.sampled_from((0, 1, 50))))
    same_bits(together.request(case, i), calls.run(alone, backend, lone_numbers).request(alone, 0))
    others = data.draw(st.lists(st.integers(0, case.batch - 1), max_size=6))
    place = data.draw(st.integers(0, len(others)))
    picks = [*others[:place], i, *others[place:]]
    crowd, crowd_numbers = gathered(case.but(plan=data.draw(plans)), numbers, picks, data.draw(st.sampled_from((0, 7))))
    same_bits(together.request(case, i), calls.run(crowd, backend, crowd_numbers).request(crowd, place))


@pytest.mark.parametrize("h_q", [16, 128])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_request_alone_and_among_many(backend, dtype, h_q):
    if dtype not in backend.dtypes:
        pytest.skip(f"no {dtype} on this backend")
    case = INVARIANT.but(dtype=dtype, h_q=h_q)
    numbers = make_data(case)
    together = check_alone(case, backend)
    calls.check_result(case, numbers, together)
    turned = [4, 3, 3, 2, 1, 0, 0, 4, 4, 4, 1, 1]
    crowd = gathered(case, numbers, turned, 3)
    in_crowd = calls.run(crowd[0], backend, crowd[1])
    for i in range(case.batch):
        for place in np.flatnonzero(np.array(turned) == i):
            same_bits(together.request(case, i), in_crowd.request(crowd[0], int(place)))


def test_a_plan_gives_the_bits_of_the_calls_own_schedule(backend):
    numbers = make_data(INVARIANT)
    same_bits(calls.run(INVARIANT, backend, numbers), calls.run(INVARIANT.but(plan="fresh"), backend, numbers))


def test_splits_are_there_at_all(backend):
    """Without splits invariance would be easy: the long request must have partial results."""
    tensors = calls.Tensors(INVARIANT, backend)
    call = tensors.c_call("dense_decode", out=tensors.place("out"))
    status, size = call.size()
    assert status == 0
    assert size >= 2 * INVARIANT.s_q * INVARIANT.h_q * INVARIANT.d_v * 4
