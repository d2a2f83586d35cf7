"""One field of a legal call is spoiled: the right status, a sentence that names the field, and nothing written.

Goes through the C ABI, since most of these calls cannot be said in Python. The mutations are in mutations.py.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import c_abi
import calls
import mutations
import strategies
from shares import share


@pytest.mark.parametrize("mutation", mutations.ALL, ids=lambda mutation: mutation.name)
def test_spoiled_call_is_refused(backend, mutation):
    if mutation.only not in {None, backend.name}:
        pytest.skip(f"a rule of the {mutation.only} backend")

    # A share that makes at least as many calls in all as the main property.
    @share(1 / len(mutations.ALL) + 0.002)
    @given(data=st.data())
    def any_call(data):
        case = data.draw(strategies.cases(backend, small=True, route="c", with_lse=True, **mutation.base))
        check_refused(mutation, calls.Tensors(case, backend), data.draw)

    any_call()


def check_refused(mutation, tensors, draw):
    """Prepares the whole call, spoils it, and looks at status, sentence and every buffer."""
    calls.drawn[tensors.backend.name, "invalid"] += 1
    written = {}
    if mutation.operation == "dense_decode":
        written = {"out": tensors.place("out"), "lse": tensors.place("lse")}
    call = tensors.c_call(mutation.operation, **written)
    status, size = call.size()
    assert status == 0, c_abi.last_error()
    written["scratch"] = tensors.scratch(size)
    name = "workspace" if mutation.operation == "dense_decode" else "buffer"
    call.fields |= {name: tensors.adapter.address(written["scratch"].tensor), f"{name}_size": size}
    mutation.spoil(call, draw, tensors)

    plan = c_abi.new_plan()
    status = call.run() if mutation.operation == "dense_decode" else call.run(plan)
    message = c_abi.last_error()
    assert status == c_abi.constant(f"ERROR_{mutation.status}"), f"status {status}: {message}"
    assert re.search(mutation.names, message), f"{message!r} does not name {mutation.names}"
    assert not any(plan.opaque), "a plan was filled in spite of the error"
    for field, guarded in (tensors.guarded | written).items():
        guarded.check_unchanged(field)
