"""One field of a legal call of merge_states is spoiled, as in test_invalid.py. The rules are in mutations_merge.py."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import c_abi
import calls
import merging
import mutations_merge
import strategies
from shares import share


@pytest.mark.parametrize("mutation", mutations_merge.ALL, ids=lambda mutation: mutation.name)
def test_spoiled_call_is_refused(backend, mutation):
    if mutation.only not in {None, backend.name}:
        pytest.skip(f"a rule of the {mutation.only} backend")

    @share(1 / 200)
    @given(data=st.data())
    def any_call(data):
        case = data.draw(strategies.merges(backend, small=True, route="c", with_lse=True, **mutation.base))
        check_refused(mutation, merging.Parts(case, backend), data.draw)

    any_call()


def check_refused(mutation, parts, draw):
    calls.drawn[parts.backend.name, "invalid"] += 1
    outputs = {"out": parts.output("out"), "lse": parts.output("lse")}
    call = parts.c_call(**outputs)
    mutation.spoil(call, draw, parts)
    status = call.run()
    message = c_abi.last_error()
    assert status == c_abi.constant(f"ERROR_{mutation.status}"), f"status {status}: {message}"
    assert re.search(mutation.names, message), f"{message!r} does not name {mutation.names}"
    for guarded in (*outputs.values(), *parts.outs, *parts.lses):
        guarded.check_unchanged("a tensor")
