"""Tensors and calls that are not what they seem: traces, transformations, gradients, tensors without plain memory.

Each is refused in one sentence, or the call is left out of the trace and computes. None gives numbers that are wrong.
"""

import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import flashmla
import flashmla.compat
import small
from flashmla import _exchange

torch = pytest.importorskip("torch")

NAMES = ("q", "kv_cache", "block_table", "cache_seqlens")
TRACED = "flashmla cannot be traced; call it outside of what is traced, or in a torch.library.custom_op of your own$"
flash_mla = flashmla.compat.flash_mla


def tensors():
    return [torch.from_numpy(array) for array in small.inputs()]


def refused(call, sentence):
    """Both ways refuse it, in the same words."""
    with pytest.raises(flashmla.UnsupportedError, match=sentence) as caught:
        call()
    assert caught.value.status_name == "FLASHMLA_ERROR_UNSUPPORTED"
    with _exchange.long_way(), pytest.raises(flashmla.UnsupportedError) as again:
        call()
    assert str(again.value) == str(caught.value)


def compat(q, kv_cache, block_table, cache_seqlens):
    return flash_mla.flash_mla_with_kvcache(
        q, kv_cache, block_table, cache_seqlens, 512, flash_mla.get_mla_metadata()[0]
    )


def given_outputs(*inputs):
    """With everything given, so that nothing at all is left for a trace to record."""
    out, lse = torch.empty(2, 2, 4, 512), torch.empty(2, 4, 2)
    workspace = torch.empty(1 << 20, dtype=torch.uint8)
    return flashmla.dense_decode(*inputs, out=out, lse=lse, workspace=workspace)


def prepared(*inputs):
    return flashmla.prepare(flashmla.dense_decode, *tensors())(**dict(zip(NAMES, inputs, strict=True)))


CALLS = {
    "decode": lambda *inputs: flashmla.dense_decode(*inputs),  # noqa: PLW0108 - make_fx counts the function's arguments
    "given": given_outputs,
    "plan": lambda *inputs: flashmla.dense_decode(*inputs, plan=flashmla.plan_decode(*inputs)),
    "merge": lambda q, *_: flashmla.merge_states([q, q], [q[..., 0].mT.contiguous()] * 2),
    "prepared": prepared,
    "compat": compat,
}


@pytest.mark.parametrize("pre_dispatch", [False, True])
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("call", CALLS)
def test_make_fx(call, mode, pre_dispatch):
    from torch.fx.experimental.proxy_tensor import make_fx

    flashmla.dense_decode(*tensors())  # the fast way knows how to make outputs
    inputs = tensors()
    refused(lambda: make_fx(CALLS[call], tracing_mode=mode, pre_dispatch=pre_dispatch)(*inputs), f"^[a-z_]+.* {TRACED}")


@pytest.mark.parametrize("call", CALLS)
def test_jit_trace(call):
    inputs = tensors()
    flashmla.dense_decode(*inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jit.trace is deprecated
        refused(
            lambda: torch.jit.trace(CALLS[call], tuple(inputs)), rf"^[a-z]+\S* is traced by torch\.jit\.trace: {TRACED}"
        )


def test_jit_trace_of_a_prepared_call_without_arguments():
    decode = flashmla.prepare(flashmla.dense_decode, *tensors())
    decode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(flashmla.UnsupportedError, match=r"traced by torch\.jit\.trace"):
            torch.jit.trace(lambda x: decode()[0] + x, (torch.zeros(()),))


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict):
    class Decode(torch.nn.Module):
        def forward(self, *inputs):
            return flashmla.dense_decode(*inputs)

    with pytest.raises(Exception, match="flashmla cannot be traced"):
        torch.export.export(Decode(), tuple(tensors()), strict=strict)


def test_symbolic_trace():
    def decode(q, kv_cache, block_table, cache_seqlens):
        return flashmla.dense_decode(q, kv_cache, block_table, cache_seqlens)

    refused(lambda: torch.fx.symbolic_trace(decode), rf"^q is a torch\.fx\.proxy\.Proxy: {TRACED}")


def odd_tensors():
    """What an argument becomes, and what is said of it."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode

    def functional(x):
        with FunctionalTensorMode():
            return FunctionalTensor.to_functional(x)

    yield "fake", FakeTensorMode().from_tensor, f"is a FakeTensor: {TRACED}"
    yield "FunctionalTensor", functional, f"is a FunctionalTensor: {TRACED}"
    yield "functional", torch._to_functional_tensor, rf"is wrapped by torch\.func\.functionalize: {TRACED}"
    yield "jagged", lambda x: torch.nested.nested_tensor([x, x], layout=torch.jagged), r"is a NestedTensor: a plain"
    yield "nested", lambda x: torch.nested.nested_tensor([x, x]), "is nested: a plain torch.Tensor is needed$"
    yield "sparse", lambda x: x.to_sparse(), r"has layout torch\.sparse_coo: a plain torch\.Tensor is needed$"
    yield "meta", lambda x: x.to("meta"), "is on the meta device, without memory: a plain"


FLOATS = {
    "mkldnn": (lambda x: x.to_mkldnn(), "has layout torch._mkldnn: a plain"),
    "quantized": (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8), "is quantized: a plain"),
    "negative": (torch._neg_view, r"has its negative bit set: resolve_neg\(\) is needed$"),
}
ODD = {name: (become, said) for name, become, said in odd_tensors()} | FLOATS


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("argument", [*NAMES, "out", "lse"])
@pytest.mark.parametrize("odd", ODD)
def test_a_tensor_without_plain_memory_is_named(odd, argument):
    if odd in FLOATS and argument in {"block_table", "cache_seqlens"}:
        pytest.skip("floating point alone")
    given = dict(zip(NAMES, tensors(), strict=True))
    given |= dict(zip(("out", "lse"), flashmla.dense_decode(**given), strict=True))
    become, said = ODD[odd]
    given[argument] = become(given[argument])
    refused(lambda: flashmla.dense_decode(**given), f"^{argument} {said}")


def test_a_negative_part_of_a_merge_and_of_a_prepared_call():
    outs, lses = torch.randn(2, 1, 1, 4, 64), torch.randn(2, 1, 4, 1)
    wrong = (torch.complex(lses, -lses)).conj().imag  # an imaginary part with its sign in a bit, every second number
    assert wrong.is_neg()
    want = flashmla.merge_states(outs, lses)
    refused(lambda: flashmla.merge_states(outs, wrong), "^lses has its negative bit set")
    refused(lambda: flashmla.merge_states(list(outs), list(wrong)), r"^lses\[0\] has its negative bit set")
    assert bool((flashmla.merge_states(outs, wrong.resolve_neg())[0] == want[0]).all())
    decode = flashmla.prepare(flashmla.dense_decode, *tensors())
    with pytest.raises(flashmla.UnsupportedError, match=r"^q has its negative bit set: resolve_neg\(\)"):
        decode(q=torch._neg_view(tensors()[0]))


def test_a_conjugate_view_is_refused_by_its_dtype():
    q, *rest = tensors()
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^q\.dtype is "):
        flashmla.dense_decode(q.to(torch.complex64).conj(), *rest)


def test_transformations_of_torch_func():
    inputs = tensors()
    flashmla.dense_decode(*inputs)
    said = rf"is wrapped by torch\.func \(vmap, grad, jvp \.\.\.\): {TRACED}"
    q, *rest = inputs

    def decode(q):
        return flashmla.dense_decode(q, *rest)[0]

    refused(lambda: torch.vmap(decode)(q[None]), f"^q {said}")
    refused(lambda: torch.vmap(lambda t: flashmla.dense_decode(q, rest[0], t, rest[2]))(rest[1][None]), "^block_table ")
    refused(lambda: torch.func.jvp(decode, (q,), (q,)), f"^q {said}")
    refused(lambda: torch.func.grad(lambda q: decode(q).sum())(q), f"^q {said}")
    refused(lambda: torch.func.functionalize(decode)(q), r"^q is wrapped by torch\.func\.functionalize: ")
    refused(lambda: torch.func.grad(lambda x: (x * decode(q)).sum())(torch.ones(())), f"^what is made like q {said}")
    times = torch.vmap(lambda x: x * decode(q))(torch.ones(3))  # nothing of the decode itself is transformed
    assert bool((times == decode(q)).all())


def test_a_tangent_is_not_lost():
    from torch.autograd import forward_ad

    q, *rest = tensors()
    wanted, _ = flashmla.dense_decode(q, *rest)
    with forward_ad.dual_level():
        refused(
            lambda: flashmla.dense_decode(forward_ad.make_dual(q, q), *rest),
            "^q has a tangent, and there is no forward",
        )
        assert bool((flashmla.dense_decode(q, *rest)[0] == wanted).all())


def test_fake_outputs_of_real_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode

    inputs = tensors()
    flashmla.dense_decode(*inputs)
    with FakeTensorMode(allow_non_fake_inputs=True):
        refused(lambda: flashmla.dense_decode(*inputs), f"^what is made like q is a FakeTensor: {TRACED}")


def differentiable(kind, q):
    return {"leaf": lambda: q.clone().requires_grad_(), "parameter": lambda: torch.nn.Parameter(q)}[kind]()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", ["leaf", "parameter"])
def test_what_requires_a_gradient(kind, call):
    q, *rest = tensors()
    wanted = [x.clone() for x in CALLS[call](q, *rest)]
    given = differentiable(kind, q)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            found = CALLS[call](given, *rest)
        for one, other in zip(found, wanted, strict=True):
            assert bool((one == other).all())
            assert not one.requires_grad
            assert one.grad_fn is None
    refused(
        lambda: CALLS[call](given, *rest),
        r"^(q|outs\[0\]) requires a gradient, and there is no backward: call this under torch\.no_grad\(\), or detach",
    )
    assert bool((CALLS[call](given.detach(), *rest)[0] == wanted[0]).all())


def test_what_other_threads_trace_is_theirs():
    from torch.fx.experimental import proxy_tensor

    inputs = tensors()
    wanted, _ = flashmla.dense_decode(*inputs)
    inside, done = threading.Event(), threading.Event()

    def traced(x):
        inside.set()
        done.wait(60)
        return x * 2

    with ThreadPoolExecutor(1) as pool:
        graph = pool.submit(proxy_tensor.make_fx(traced, tracing_mode="real"), torch.ones(2))
        try:
            assert inside.wait(60)
            assert proxy_tensor._CURRENT_MAKE_FX_TRACER is not None
            found, _ = flashmla.dense_decode(*inputs)
        finally:
            done.set()
        assert bool((found == wanted).all())
        assert "mul" in graph.result().code


def test_modes_that_only_watch_are_let_through():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    inputs = tensors()
    wanted, _ = flashmla.dense_decode(*inputs)
    with Watch():
        assert bool((flashmla.dense_decode(*inputs)[0] == wanted).all())


def compiled(call, **options):
    """The call amid other work, compiled: (result, number of graphs)."""
    from torch._dynamo.utils import counters

    def step(q, *rest):
        out, lse = call(q * 1, *rest)
        return out * 2, lse

    torch._dynamo.reset()
    counters.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return torch.compile(step, backend="eager", **options)(*tensors()), counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("call", [name for name in CALLS if name != "merge"])
def test_compiled_callers_break_once_around_the_call(call):
    (out, lse), graphs = compiled(CALLS[call])
    wanted = flashmla.dense_decode(*tensors())
    assert bool((out == wanted[0] * 2).all())
    assert bool((lse == wanted[1]).all())
    assert call != "decode" or graphs == 2, "before and after the call, and nothing of the package"


def test_compiling_the_function_itself():
    torch._dynamo.reset()
    inputs = tensors()
    out, _ = torch.compile(flashmla.dense_decode, backend="eager")(*inputs)
    assert bool((out == flashmla.dense_decode(*inputs)[0]).all())
    with pytest.raises(torch._dynamo.exc.Unsupported, match="flashmla cannot be traced"):
        compiled(flashmla.dense_decode, fullgraph=True)


def test_the_first_call_of_all_may_be_a_compiled_one():
    """With PyTorch imported after the package, and nothing called before."""
    code = """
import warnings
import flashmla, small
import torch
from torch._dynamo.utils import counters
inputs = [torch.from_numpy(array) for array in small.inputs()]
def step(*inputs):
    out, lse = flashmla.dense_decode(inputs[0] * 1, *inputs[1:])
    return out * 2, lse
warnings.simplefilter("error")
out, _ = torch.compile(step, backend="eager")(*inputs)
assert bool((out == flashmla.dense_decode(*inputs)[0] * 2).all())
print(counters["stats"]["unique_graphs"])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "2\n", done.stderr


@pytest.mark.parametrize("transform", ["jit", "vmap", "grad", "make_jaxpr"])
def test_jax_tracers_are_refused(transform):
    jax = pytest.importorskip("jax")
    q, *rest = map(jax.numpy.asarray, small.inputs())

    def decode(q):
        return flashmla.dense_decode(q, *rest)[0].sum()

    arguments = q[None] if transform == "vmap" else q
    said = (
        r"^q is a \w+Tracer: flashmla cannot be traced by jax\.jit, vmap or grad; call it outside, or through jax\.pure"
    )
    with pytest.raises(flashmla.UnsupportedError, match=said):
        getattr(jax, transform)(decode)(arguments)
    with pytest.raises(flashmla.UnsupportedError, match=r"^block_table is a \w+Tracer: "):
        jax.jit(lambda table: flashmla.dense_decode(q, rest[0], table, rest[2]))(rest[1])
    arrays = small.inputs()
    with pytest.raises(flashmla.UnsupportedError, match=r"^block_table is a \w+Tracer: "):
        jax.jit(lambda table: flashmla.dense_decode(*arrays[:2], table, arrays[3]))(rest[1])
    np.testing.assert_array_equal(decode(q), decode(q))
