"""The package raises what C says: its sentence, its number, the class of its hundred; and nothing is written."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import c_abi
import flashmla
import properties
from buffers import Guarded
from ops.dense_decode import calls, strategies
from ops.dense_decode.case import INPUTS
from properties import share


def other(adapter, shape, dtype: str):
    """A tensor to stand in for one of the call's."""
    return Guarded(adapter, shape, dtype).tensor


def longer(shape, axis: int) -> tuple[int, ...]:
    return (*shape[:axis], shape[axis] + 1, *shape[axis + 1 :])


# Each makes from (case, adapter) the keyword arguments that spoil a legal call.
REFUSED = {
    "q dtype": ("DTYPE", r"q\.dtype", lambda c, a: {"q": other(a, c.shapes()["q"], "int32")}),
    "table dtype": (
        "DTYPE",
        "block_table",
        lambda c, a: {"block_table": other(a, c.shapes()["block_table"], "float32")},
    ),
    "lse dtype": ("DTYPE", "lse", lambda c, a: {"lse": other(a, c.shapes()["lse"], "float16")}),
    "lengths": ("SHAPE", "cache_seqlens", lambda c, a: {"cache_seqlens": other(a, (c.batch + 1,), "int32")}),
    "out shape": ("SHAPE", "out", lambda c, a: {"out": other(a, longer(c.shapes()["out"], 2), c.dtype)}),
    "kv_cache rank": ("SHAPE", r"kv_cache\.ndim", lambda c, a: {"kv_cache": other(a, (4, 576), c.dtype)}),
    "d_v": ("SHAPE", "d_v", lambda c, a: {"out": other(a, (*c.shapes()["out"][:3], 256), c.dtype)}),
    "scale": ("VALUE", "softmax_scale", lambda _c, _a: {"softmax_scale": -1.0}),
    "max_seqlen_q": ("VALUE", "max_seqlen_q", lambda _c, _a: {"max_seqlen_q": 3}),
    "cu_seqlens_q": (
        "SHAPE",
        r"q\.ndim",
        lambda c, a: {"cu_seqlens_q": other(a, (c.batch + 1,), "int32"), "max_seqlen_q": 1},
    ),
    "cp_rank": ("VALUE", "cp_rank", lambda _c, _a: {"cp_rank": 1}),
    "global_seqlens": (
        "DTYPE",
        "global_seqlens",
        lambda c, a: {"global_seqlens": other(a, (c.batch,), "float32"), "cp_world": 2, "cp_interleave": 1},
    ),
    "workspace": (
        "WORKSPACE_TOO_SMALL",
        "^workspace has 16 bytes; it must have at least [0-9]+$",
        lambda _c, a: {"workspace": other(a, (16,), "uint8")},
    ),
}
# What no sentence says to a user of Python.
IN_C = r"params|FLASHMLA_[A-Z]|flashmla_[a-z]|NULL|(workspace|buffer)_size|[{|}]"
CLASSES = {1: flashmla.InvalidArgumentError, 2: flashmla.UnsupportedError}


@pytest.mark.parametrize(("status", "names", "spoil"), REFUSED.values(), ids=REFUSED)
def test_refusal_becomes_an_exception(backend, status, names, spoil):
    routes = [route for route in backend.routes if route != "c" and backend.adapter(route).writable]

    @share(1 / 50)
    @given(data=st.data())
    def any_call(data):
        route = data.draw(st.sampled_from(routes))
        case = data.draw(strategies.cases(backend, small=True, route=route, dtype="float16"))
        tensors = calls.Tensors(case, backend)
        out, lse = tensors.place("out"), tensors.place("lse")
        arguments = {name: tensors.guarded[name].tensor for name in INPUTS}
        arguments |= {"out": out.tensor, "lse": lse.tensor, "causal": case.causal}
        arguments |= spoil(case, tensors.adapter)
        properties.drawn[backend.name, "invalid"] += 1
        number = c_abi.constant(f"ERROR_{status}")
        with pytest.raises(CLASSES[number // 100], match=names) as refusal:
            flashmla.dense_decode(**arguments)
        assert refusal.value.status == number
        assert not re.search(IN_C, str(refusal.value))
        for name, guarded in (*tensors.guarded.items(), ("out", out), ("lse", lse)):
            guarded.check_unchanged(name)

    any_call()
