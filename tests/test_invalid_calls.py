"""One field of a legal call is spoiled: the right status, a sentence that names the field, and nothing written.

Goes through the C ABI, since most of these calls cannot be said in Python. The rules are in ops/<operation>/invalid.py.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import c_abi
import operations
import properties
from properties import share

RULES = [(module, rule) for module in operations.modules("invalid").values() for rule in module.RULES]
# A share that makes at least as many calls in all as the main property.
SHARE = share(1 / len(RULES) + 0.002)


def name_of(value) -> str:
    return value.name if hasattr(value, "name") else value.__name__.split(".")[1]


@pytest.mark.parametrize(("operation", "rule"), RULES, ids=name_of)
def test_spoiled_call_is_refused(backend, operation, rule):
    if rule.only not in {None, backend.name}:
        pytest.skip(f"a rule of the {rule.only} backend")

    @SHARE
    @given(data=st.data())
    def any_call(data):
        check_refused(rule, operation.legal_call(backend, data.draw, **rule.base), data.draw)
        properties.drawn[backend.name, "invalid"] += 1

    any_call()


def check_refused(rule, legal, draw) -> None:
    """Spoils the call and looks at status, sentence and every buffer; preparing the call is refused likewise."""
    call, outputs = legal.call, legal.outputs
    rule.spoil(call, draw, legal)
    status = call.run(*outputs)
    message = c_abi.last_error()
    assert status == c_abi.constant(f"ERROR_{rule.status}"), f"status {status}: {message}"
    assert re.search(rule.names, message), f"{message!r} does not name {rule.names}"
    assert call.prepare() == status
    assert c_abi.last_error() == message
    legal.check_untouched()
    for output in outputs:
        assert not any(output.opaque), "a plan was filled in spite of the error"
