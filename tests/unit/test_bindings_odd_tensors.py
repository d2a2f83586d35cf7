"""Tensors that are odd in some way: the fast path refuses, or takes, each as the long way does."""

import numpy as np
import pytest

import flashmla
from flashmla import _exchange
from small_torch import NAMES, Subclass, outcome, tensors

torch = pytest.importorskip("torch")


def scratch(arguments, **options):
    """out, lse and workspace of a call."""
    size = flashmla.dense_decode_workspace_size(*arguments, **options)
    out, lse = (x.clone() for x in flashmla.dense_decode(*arguments, **options))
    return {"out": out, "lse": lse, "workspace": torch.zeros(size, dtype=torch.uint8)}


def broken_memory(tensor):
    """A tensor whose storage is gone."""
    clone = tensor.clone()
    clone.untyped_storage().resize_(0)
    return clone


ODD = {
    "gradient": lambda x: x.clone().requires_grad_() if x.is_floating_point() else x.double().requires_grad_(),
    "not a leaf": lambda x: x.double().requires_grad_() * 1,
    "subclass": lambda x: x.as_subclass(Subclass),
    "parameter": lambda x: torch.nn.Parameter(x, requires_grad=False),
    "conjugate": lambda x: x.to(torch.complex64).conj(),
    "meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "functional": torch._to_functional_tensor,
    "no memory": broken_memory,
    "complex": lambda x: x.to(torch.complex64),
    "boolean": lambda x: x.bool(),
    "double": lambda x: x.double(),
    "transposed": lambda x: x.expand(3, *x.shape).transpose(0, -1),
    "no axis": lambda _x: torch.tensor(1),
    "many axes": lambda x: x.reshape(*x.shape, *(1,) * 8),
    "NumPy": lambda x: x.numpy(),
    "a number": lambda _x: 3,
    "a list": lambda x: [x],
    "text": lambda _x: "q",
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("argument", [*NAMES, "out", "lse", "workspace", "global_seqlens", "attn_sink"])
def test_odd_tensors_fare_as_they_do_the_long_way(argument, odd):
    arguments = dict(zip(NAMES, tensors(), strict=True))
    arguments |= scratch(list(arguments.values()))
    if argument == "global_seqlens":
        arguments |= {"cp_world": 1, "cp_interleave": 1, "global_seqlens": arguments["cache_seqlens"].clone()}
    if argument == "attn_sink":
        arguments["attn_sink"] = torch.randn(4)
    check_both_ways(flashmla.dense_decode, arguments | {argument: ODD[odd](arguments[argument])})


def sparse_arguments():
    """All tensors of a sparse_decode."""
    q, kv_cache, *_ = tensors()
    indices = torch.arange(18, dtype=torch.int32).reshape(2, 1, 9).expand(2, 2, 9).contiguous()
    arguments = {"q": q, "kv_cache": kv_cache, "indices": indices}
    out, lse = (x.clone() for x in flashmla.sparse_decode(**arguments))
    arguments |= {"topk_length": torch.tensor([9, 4], dtype=torch.int32), "attn_sink": torch.randn(4)}
    arguments |= {f"extra_{name}": arguments[name].clone() for name in ("kv_cache", "indices", "topk_length")}
    size = flashmla.sparse_decode_workspace_size(**arguments)
    return arguments | {"out": out, "lse": lse, "workspace": torch.zeros(size, dtype=torch.uint8)}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("argument", sparse_arguments())
def test_odd_tensors_of_a_sparse_decode_fare_as_they_do_the_long_way(argument, odd):
    arguments = sparse_arguments()
    flashmla.sparse_decode(**arguments)
    check_both_ways(flashmla.sparse_decode, arguments | {argument: ODD[odd](arguments[argument])})


def check_both_ways(operation, arguments):
    """A call gives the same as the long way, or is refused in the same words."""
    with _exchange.long_way():
        expected = outcome(lambda: operation(**arguments))
    found = outcome(lambda: operation(**arguments))
    if isinstance(expected, tuple):
        assert found == expected
    else:
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
