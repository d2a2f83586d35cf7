"""Tensors of torch, CuPy and JAX: right results, outputs of q's own framework, inputs as they were."""

from __future__ import annotations

import numpy as np
import pytest

import flashmla
from backends import has
from gpu.steps import STEP
from ops.dense_decode import calls
from ops.dense_decode.case import make_data

ROUTES = ("torch", "cupy", "jax")


def adapter_of(gpu, route):
    if route not in gpu.adapters:
        pytest.skip(f"{route} is installed, but not for GPUs" if has(route) else f"{route} is not installed")
    return gpu.adapters[route]


def device_of(tensor):
    return tensor.devices() if hasattr(tensor, "devices") else tensor.device


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("num_splits", [None, 0, 3])
def test_outputs_are_of_qs_framework_and_right(gpu, route, dtype, num_splits):
    adapter = adapter_of(gpu, route)
    if dtype not in adapter.dtypes:
        pytest.skip(f"no {dtype} in {route}")
    case = STEP.but(route=route, dtype=dtype)
    tensors = calls.Tensors(case, gpu)
    inputs = tensors.package_inputs()
    q = inputs[0]
    plan = None if num_splits is None else flashmla.plan_decode(*inputs, causal=True, num_splits=num_splits)
    before = [adapter.to_numpy(tensor).tobytes() for tensor in inputs]
    out, lse = flashmla.dense_decode(*inputs, causal=True, plan=plan)
    for made in (out, lse):
        assert type(made) is type(q)
        assert device_of(made) == device_of(q)
    assert out.dtype == q.dtype
    calls.check_result(case, tensors.data, calls.Result(adapter.to_numpy(out), adapter.to_numpy(lse)))
    assert [adapter.to_numpy(tensor).tobytes() for tensor in inputs] == before


@pytest.mark.parametrize("route", ROUTES)
def test_a_result_is_not_changed_by_later_calls(gpu, route):
    """JAX's arrays must never change, and nobody's output may share memory with the next one."""
    adapter = adapter_of(gpu, route)
    case = STEP.but(route=route, dtype="float16")
    first_tensors, second_tensors = calls.Tensors(case, gpu), calls.Tensors(case.but(seed=5), gpu)
    first = flashmla.dense_decode(*first_tensors.package_inputs(), causal=True)
    bytes_then = [adapter.to_numpy(made).tobytes() for made in first]
    later = [flashmla.dense_decode(*second_tensors.package_inputs(), causal=True) for _ in range(10)]
    assert [adapter.to_numpy(made).tobytes() for made in first] == bytes_then
    assert adapter.to_numpy(later[0][0]).tobytes() != bytes_then[0]


def test_jax_refuses_to_have_its_arrays_written(gpu):
    adapter_of(gpu, "jax")
    case = STEP.but(route="jax")
    tensors = calls.Tensors(case, gpu)
    out, lse = flashmla.dense_decode(*tensors.package_inputs(), causal=True)
    for given in ({"out": out}, {"lse": lse}):
        with pytest.raises(flashmla.InvalidArgumentError, match="read-only"):
            flashmla.dense_decode(*tensors.package_inputs(), causal=True, **given)


def test_jax_sees_finished_arrays(gpu):
    """Whatever JAX does next with an output uses the result, without any synchronisation by the caller."""
    adapter = adapter_of(gpu, "jax")
    import jax.numpy as jnp

    case = STEP.but(route="jax")
    tensors = calls.Tensors(case, gpu)
    for _ in range(5):
        out, lse = flashmla.dense_decode(*tensors.package_inputs(), causal=True)
        doubled, negative = adapter.to_numpy(out + out), adapter.to_numpy(jnp.negative(lse))
        halved = (doubled.astype(np.float32) / 2).astype(doubled.dtype)
        calls.check_result(case, tensors.data, calls.Result(halved, -negative))


@pytest.mark.parametrize("others", ["cupy", "jax"])
def test_inputs_may_come_from_several_frameworks(gpu, others):
    adapter_of(gpu, others)
    case = STEP.but(dtype="float16")
    data = make_data(case)
    mine = calls.Tensors(case, gpu, data).package_inputs()
    theirs = calls.Tensors(case.but(route=others), gpu, data).package_inputs()
    out, lse = flashmla.dense_decode(mine[0], theirs[1], theirs[2], mine[3], causal=True)
    assert type(out) is type(mine[0])
    adapter = gpu.adapters["torch"]
    calls.check_result(case, data, calls.Result(adapter.to_numpy(out), adapter.to_numpy(lse)))
