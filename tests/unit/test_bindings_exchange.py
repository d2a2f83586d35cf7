"""The fast path: taken where it can be, and what it leaves to the long way is refused there in the same words."""

import gc
import math
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import flashmla
import small
from at_once import at_once
from flashmla import _exchange, _frameworks
from small_torch import NAMES, Subclass, outcome, tensors

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("framework", ["torch", "numpy"])
@pytest.mark.parametrize("planned", [False, True])
def test_calls_take_it(only_fast, framework, planned):
    arguments = small.inputs() if framework == "numpy" else tensors()
    with only_fast():
        plan = flashmla.plan_decode(*arguments, causal=True) if planned else None
    options = {"plan": plan, "causal": True}
    first = flashmla.dense_decode(*arguments, **options)
    workspace = np.empty(1 << 20, np.uint8) if framework == "numpy" else torch.empty(1 << 20, dtype=torch.uint8)
    out, lse = first[0] * 0, first[1] * 0
    with only_fast():
        made = flashmla.dense_decode(*arguments, **options)
        given = flashmla.dense_decode(*arguments, **options, out=out, lse=lse, workspace=workspace)
        only_lse = flashmla.dense_decode(*arguments, **options, lse=lse)
    assert given[0] is out
    assert given[1] is lse
    assert only_lse[1] is lse
    for found in (made, given, only_lse):
        assert type(found[0]) is type(first[0])
        for one, other in zip(found, first, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("argument", NAMES)
def test_a_missing_tensor_is_named(argument):
    arguments = dict(zip(NAMES, tensors(), strict=True)) | {argument: None}
    for operation in (flashmla.dense_decode, flashmla.plan_decode):
        with pytest.raises(TypeError, match=f"^{argument} is a NoneType: a tensor that supports DLPack is needed"):
            operation(**arguments)


def test_tensors_inside_a_transformation_are_refused_alike():
    arguments = tensors()

    def inside(q):
        return flashmla.dense_decode(q, *arguments[1:])

    def both(transform):
        with _exchange.long_way():
            expected = outcome(lambda: transform(inside)(arguments[0]))
        assert outcome(lambda: transform(inside)(arguments[0])) == expected
        assert isinstance(expected, tuple)

    both(torch.vmap)
    both(torch.func.functionalize)


def test_a_capsule_is_no_tensor():
    q, *rest = small.inputs()
    with pytest.raises(TypeError, match=r"^q is a PyCapsule"):
        flashmla.dense_decode(q.__dlpack__(max_version=(1, 0)), *rest)
    with pytest.raises(TypeError, match=r"^block_table is a PyCapsule"):
        flashmla.dense_decode(q, rest[0], rest[1].__dlpack__(max_version=(1, 0)), rest[2])
    with pytest.raises(TypeError, match=r"^kv_cache is an int"):
        flashmla.dense_decode(q, 1, *rest[1:])


def test_scalars_of_equal_value_and_other_type_are_still_refused():
    """What is remembered of a call is found by values and types: 1, 1.0 and True are equal to Python."""
    arguments = tensors()
    flashmla.dense_decode(*arguments, num_threads=1, cp_rank=0)
    for wrong in ({"num_threads": True}, {"num_threads": 1.0}, {"cp_rank": False}, {"cp_rank": 0.0}):
        (name,) = wrong
        with pytest.raises(TypeError, match=f"^{name} is .*an integer is needed"):
            flashmla.dense_decode(*arguments, **wrong)


def test_a_scalar_that_may_change_is_read_in_every_call():
    arguments = small.inputs()
    scale = torch.tensor(0.5)
    before, _ = flashmla.dense_decode(*arguments, softmax_scale=scale)
    scale.fill_(0.01)
    after, _ = flashmla.dense_decode(*arguments, softmax_scale=scale)
    np.testing.assert_array_equal(after, flashmla.dense_decode(*arguments, softmax_scale=float(scale))[0])
    assert (before != after).any()


@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_nothing_is_kept(framework):
    arguments = small.inputs() if framework == "numpy" else tensors()
    out, lse = flashmla.dense_decode(*arguments)
    wrong = arguments[3][:1]

    def call() -> None:
        flashmla.dense_decode(*arguments, out=out, lse=lse)
        flashmla.plan_decode(*arguments)
        with pytest.raises(flashmla.InvalidArgumentError):
            flashmla.dense_decode(*arguments[:3], wrong, out=out, lse=lse)
        with pytest.raises(TypeError):
            flashmla.dense_decode(*arguments[:3], 1, out=out, lse=lse)

    call()  # what the first call of each kind imports is kept
    gc.collect()
    everything = [*arguments, out, lse, wrong, None, False, 0]
    before = [sys.getrefcount(x) for x in everything]
    for _ in range(100):
        call()
    gc.collect()
    after = [sys.getrefcount(x) for x in everything]
    grown = [a - b for a, b in zip(after, before, strict=True)]
    assert max(grown) < 50, str(grown)


@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_other_threads_run_while_the_cpu_computes(framework):
    """Everything is given, so that nothing else in the calls gives the interpreter's lock up."""
    arrays = small.inputs(lengths=(128,) * 16, h_q=64, s_q=4)
    given = {"plan": flashmla.plan_decode(*arrays), "num_threads": 1}
    out, lse = flashmla.dense_decode(*arrays, **given)
    workspace = np.empty(flashmla.dense_decode_workspace_size(*arrays, plan=given["plan"]), np.uint8)
    convert = np.asarray if framework == "numpy" else torch.from_numpy
    arguments = [convert(array) for array in arrays]
    given |= {"out": convert(out), "lse": convert(lse), "workspace": convert(workspace)}
    done = threading.Event()

    def compute():
        try:
            for _ in range(20):
                flashmla.dense_decode(*arguments, **given)
        finally:
            done.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)  # a thread goes on until it gives the lock up by itself
    try:
        thread = threading.Thread(target=compute)
        thread.start()
        turns = 0
        while not done.wait(0.0005):
            turns += 1
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert turns >= 5


def test_many_threads_share_the_options_of_a_call():
    arguments = tensors()
    expected = flashmla.dense_decode(*arguments)

    def call(_):
        for _ in range(100):
            out, lse = flashmla.dense_decode(*arguments, num_threads=1)
            assert bool((out == expected[0]).all() and (lse == expected[1]).all())

    at_once(call, range(4))


def test_it_survives_a_fork():
    """In a process without threads of other libraries."""
    code = """
import os, sys
import numpy as np
import flashmla, small
arguments = small.inputs()
expected = flashmla.dense_decode(*arguments)[0]
prepared = flashmla.prepare(flashmla.dense_decode, *arguments)
child = os.fork()
same = all((found[0] == expected).all() for found in (flashmla.dense_decode(*arguments), prepared()))
if not child:
    os._exit(0 if same else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if same else 4)
"""
    paths = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, check=False, timeout=120
    )
    assert done.returncode == 0


def test_a_python_or_library_without_it_takes_the_long_way(monkeypatch):
    arguments = tensors()
    expected = flashmla.dense_decode(*arguments)
    with _exchange.long_way(), monkeypatch.context() as patch:
        patch.setattr(_exchange, "_definition", None)
        found = flashmla.dense_decode(*arguments)
        assert _exchange.fast_call(None, torch.Tensor, params=None) is None
    assert bool((found[0] == expected[0]).all())


def test_tensor_types_with_a_fast_path():
    assert _frameworks.exact_framework(torch.Tensor) is not None
    for kind in (Subclass, torch.nn.Parameter, list, int):
        assert _frameworks.exact_framework(kind) is None
    assert _exchange._table_of(torch.Tensor)
    assert _exchange._table_of(np.ndarray) is None


def test_an_empty_row_and_other_options_survive_the_fast_path():
    arguments = tensors(lengths=(0, 100))
    for _ in range(2):
        _, lse = flashmla.dense_decode(*arguments, empty_lse=-math.inf, out_dtype="float32")
        assert bool((lse[0] == -math.inf).all())
