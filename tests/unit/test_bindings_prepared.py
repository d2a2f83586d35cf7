"""`prepare`: the same results as the call itself, other tensors in their places, and what may not take a place."""

import gc
import sys
import weakref

import numpy as np
import pytest

import flashmla
import small
from at_once import at_once


def inputs(framework, **options):
    arrays = small.inputs(**options)
    if framework == "numpy":
        return list(arrays)
    torch = pytest.importorskip("torch")
    return [torch.from_numpy(array) for array in arrays]


def copied(tensor):
    return tensor.copy() if isinstance(tensor, np.ndarray) else tensor.clone()


def equal(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("planned", [False, True])
def test_a_decode(framework, planned):
    arguments = inputs(framework)
    plan = flashmla.plan_decode(*arguments, causal=True) if planned else None
    wanted = flashmla.dense_decode(*arguments, causal=True, plan=plan)
    prepared = flashmla.prepare(flashmla.dense_decode, *arguments, causal=True, plan=plan)
    first, second = prepared(), prepared()
    equal(first, wanted)
    assert first[0] is second[0]
    assert first[1] is second[1]

    q, out = copied(arguments[0]) * 2, copied(wanted[0])
    found = prepared(q=q, out=out)
    assert found[0] is out
    assert found[1] is first[1]
    equal(found, flashmla.dense_decode(q, *arguments[1:], causal=True, plan=plan))
    equal(prepared(), wanted)
    other = dict(zip(("q", "kv_cache", "block_table", "cache_seqlens"), map(copied, arguments), strict=True))
    other |= {"out": copied(wanted[0]) * 0, "lse": copied(wanted[1]) * 0}
    equal(prepared(**other), wanted)


def test_a_plan(framework):
    arguments = inputs(framework)
    prepared = flashmla.prepare(flashmla.plan_decode, *arguments)
    wanted = flashmla.dense_decode(*arguments)
    plan = prepared()
    assert plan is prepared()
    equal(flashmla.dense_decode(*arguments, plan=plan), wanted)
    lengths = copied(arguments[3]) + 1
    assert prepared(cache_seqlens=lengths) is plan
    equal(flashmla.dense_decode(*arguments, plan=plan), wanted)
    with pytest.raises(TypeError, match=r"^buffer is none of q, kv_cache"):
        prepared(buffer=lengths)


def test_another_plan_and_workspace(framework):
    arguments = inputs(framework)
    plans = [flashmla.plan_decode(*arguments, num_splits=2) for _ in range(2)]
    prepared = flashmla.prepare(flashmla.dense_decode, *arguments, plan=plans[0])
    wanted = [copied(x) for x in prepared()]
    size = flashmla.dense_decode_workspace_size(*arguments, plan=plans[0])
    assert size > 0
    workspace = np.zeros(size, np.uint8)
    small_one = workspace[: size - 16]
    larger = np.zeros(2 * size, np.uint8)
    if framework == "torch":
        torch = pytest.importorskip("torch")
        workspace, small_one, larger = map(torch.from_numpy, (workspace, small_one, larger))
    equal(prepared(plan=plans[1], workspace=workspace), wanted)
    used = np.zeros(flashmla.dense_decode_workspace_size(*arguments), np.uint8)  # for the schedule, if nothing else
    given = torch.from_numpy(used) if framework == "torch" else used
    flashmla.prepare(flashmla.dense_decode, *arguments)(workspace=given)
    assert used.any()
    with_more = flashmla.prepare(flashmla.dense_decode, *arguments, plan=plans[0], workspace=larger)
    for sufficient in (workspace, larger):
        equal(with_more(workspace=sufficient), wanted)
    for call in (prepared, with_more):
        with pytest.raises(flashmla.InvalidArgumentError, match=rf"^workspace.* {size - 16}.* {size}") as caught:
            call(workspace=small_one)
        assert caught.value.status_name == "FLASHMLA_ERROR_WORKSPACE_TOO_SMALL"
    with pytest.raises(TypeError, match=r"^plan is an int"):
        prepared(plan=3)
    with pytest.raises(flashmla.InvalidArgumentError) as caught:
        prepared(plan=flashmla.plan_decode(*inputs(framework, h_q=8), num_splits=2))
    assert caught.value.status_name == "FLASHMLA_ERROR_PLAN_MISMATCH"


class HasAnAddress:
    """What looks like a plan, as a connection's listener does."""

    def __init__(self, address):
        self.address = address


@pytest.mark.parametrize("address", [1, 0, -1, 2**70, "localhost", None])
def test_what_is_no_plan_is_not_followed(framework, address):
    arguments = inputs(framework)
    prepared = flashmla.prepare(flashmla.dense_decode, *arguments, plan=flashmla.plan_decode(*arguments))
    with pytest.raises(TypeError, match=r"^plan is a HasAnAddress: a flashmla.Plan is needed$"):
        prepared(plan=HasAnAddress(address))
    with pytest.raises(TypeError, match=r"^plan is a NoneType: a flashmla.Plan is needed$"):
        prepared(plan=None)


def other_shapes(q):
    return {
        "shape": (q[:1], "SHAPE", r"shape\[0\] is 1, was 2"),
        "strides": (np.asarray(q).swapaxes(1, 2).copy().swapaxes(1, 2), "STRIDE", r"strides\[1\] is 576, was 2304"),
        "dtype": (np.asarray(q).astype(np.float16), "DTYPE", "dtype"),
        "rank": (q[0], "SHAPE", "shape is"),
    }


@pytest.mark.parametrize("what", ["shape", "strides", "dtype", "rank"])
def test_a_tensor_of_another_kind_is_refused(framework, what):
    arguments = inputs(framework)
    prepared = flashmla.prepare(flashmla.dense_decode, *arguments)
    wanted = [copied(x) for x in prepared()]
    wrong, status, words = other_shapes(arguments[0])[what]
    if framework == "torch":
        wrong = pytest.importorskip("torch").as_tensor(wrong)
    with pytest.raises(flashmla.InvalidArgumentError, match=rf"^q: {words}.* when the call was prepared$") as caught:
        prepared(q=wrong)
    assert caught.value.status_name == f"FLASHMLA_ERROR_{status}"
    equal(prepared(), wanted)


def test_what_is_no_tensor_or_has_no_place(framework):
    arguments = inputs(framework)
    prepared = flashmla.prepare(flashmla.dense_decode, *arguments)
    for wrong, kind in ((3, "an int"), (None, "a NoneType"), ("q", "a str")):
        with pytest.raises(TypeError, match=rf"^q is {kind}: a tensor that supports DLPack"):
            prepared(q=wrong)
    with pytest.raises(TypeError, match=r"^scale is none of q, kv_cache, .*, plan, which can be others in this call$"):
        prepared(scale=1.0)
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^cu_seqlens_q is given, was None when"):
        prepared(cu_seqlens_q=arguments[3])
    out = copied(np.asarray(prepared()[0]))
    out.flags.writeable = False
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^out is read-only"):
        prepared(out=out)


def test_a_wrong_call_is_refused_when_it_is_prepared():
    arguments = small.inputs()
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^softmax_scale"):
        flashmla.prepare(flashmla.dense_decode, *arguments, softmax_scale=-1.0)
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^cache_seqlens"):
        flashmla.prepare(flashmla.plan_decode, *arguments[:3], arguments[3][:1])
    with pytest.raises(TypeError, match="softmax"):
        flashmla.prepare(flashmla.dense_decode, *arguments, softmax=1.0)
    for wrong in (print, "dense_decode", flashmla.plan_decode_size, None, []):
        with pytest.raises(TypeError, match=r"one of [a-z_, ]*dense_decode[a-z_, ]* is needed$"):
            flashmla.prepare(wrong, *arguments)


def test_preparing_writes_nothing():
    arguments = small.inputs()
    out, lse = np.full((2, 2, 4, 512), np.nan, np.float32), np.full((2, 4, 2), np.nan, np.float32)
    prepared = flashmla.prepare(flashmla.dense_decode, *arguments, out=out, lse=lse)
    assert np.isnan(out).all()
    found = prepared()
    assert found[0] is out
    assert found[1] is lse
    small.check(out, lse, arguments)


def test_jax_arrays_cannot_be_prepared():
    jnp = pytest.importorskip("jax.numpy")
    arrays = [jnp.asarray(array) for array in small.inputs()]
    with pytest.raises(TypeError, match=r"^q is an ArrayImpl, which never changes"):
        flashmla.prepare(flashmla.dense_decode, *arrays)


def test_a_given_stream_is_that_of_every_call(framework):
    arguments = inputs(framework)
    prepared = flashmla.prepare(flashmla.dense_decode, *arguments, stream=0)
    equal(prepared(), flashmla.dense_decode(*arguments))
    equal(prepared(q=copied(arguments[0])), flashmla.dense_decode(*arguments))


def test_its_tensors_live_as_long_as_it_does(framework):
    class Mine(np.ndarray):
        pass

    arguments = inputs(framework)
    arguments[1] = np.asarray(arguments[1]).view(Mine)
    cache = weakref.ref(arguments[1])
    plan = flashmla.plan_decode(*arguments)
    buffer = weakref.ref(plan._buffer) if hasattr(type(plan._buffer), "__weakref__") else None
    wanted = [copied(x) for x in flashmla.dense_decode(*arguments, plan=plan)]
    prepared = flashmla.prepare(flashmla.dense_decode, *arguments, plan=plan)
    del arguments, plan
    gc.collect()
    assert cache() is not None
    assert buffer is None or buffer() is not None
    equal(prepared(), wanted)
    del prepared
    gc.collect()
    assert cache() is None


def test_tensors_of_one_call_are_not_kept(framework):
    arguments = inputs(framework)
    prepared = flashmla.prepare(flashmla.dense_decode, *arguments)
    q = copied(arguments[0])
    before = sys.getrefcount(q)
    for _ in range(10):
        prepared(q=q)
    assert sys.getrefcount(q) == before


def test_threads_with_outputs_of_their_own(framework):
    arguments = inputs(framework)
    prepared = flashmla.prepare(flashmla.dense_decode, *arguments, num_threads=1)
    wanted = [copied(x) for x in prepared()]
    size = flashmla.dense_decode_workspace_size(*arguments)

    def call(_):
        out, lse = copied(wanted[0]) * 0, copied(wanted[1]) * 0
        workspace = np.empty(size, np.uint8)
        if framework == "torch":
            workspace = pytest.importorskip("torch").from_numpy(workspace)
        for _ in range(50):
            found = prepared(out=out, lse=lse, workspace=workspace)
            equal(found, wanted)

    at_once(call, range(4))


def test_it_says_what_it_is():
    assert repr(flashmla.prepare(flashmla.dense_decode, *small.inputs())) == "<flashmla.Prepared dense_decode>"
