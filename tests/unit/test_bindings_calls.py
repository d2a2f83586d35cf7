"""Caller-owned outputs, workspaces and plans, and what an error says."""

import copy
import gc
import pickle
import re

import numpy as np
import pytest

import flashmla
import small
from at_once import at_once
from flashmla.errors import error_for


def outputs():
    return np.full((2, 2, 4, 512), np.nan, np.float32), np.full((2, 4, 2), np.nan, np.float32)


def test_given_outputs_are_written_and_returned():
    arrays = small.inputs()
    out, lse = outputs()
    returned = flashmla.dense_decode(*arrays, out=out, lse=lse)
    assert returned[0] is out
    assert returned[1] is lse
    small.check(out, lse, arrays)
    only_lse = flashmla.dense_decode(*arrays, lse=lse)
    np.testing.assert_array_equal(only_lse[0], out)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.float32])
def test_a_workspace_is_bytes_of_any_contiguous_tensor(dtype):
    arrays = small.inputs()
    size = flashmla.dense_decode_workspace_size(*arrays)
    workspace = np.zeros((1, -(-size // 16), 16 // np.dtype(dtype).itemsize), dtype)
    out, lse = flashmla.dense_decode(*arrays, workspace=workspace)
    small.check(out, lse, arrays)


def test_a_small_workspace_is_refused_before_anything_is_written():
    arrays = small.inputs()
    out, lse = outputs()
    size = flashmla.dense_decode_workspace_size(*arrays)
    assert size > 0
    with pytest.raises(flashmla.InvalidArgumentError, match=f"workspace.*{size}") as caught:
        flashmla.dense_decode(*arrays, out=out, lse=lse, workspace=np.zeros(size - 16, np.uint8))
    assert caught.value.status_name == "FLASHMLA_ERROR_WORKSPACE_TOO_SMALL"
    assert np.isnan(out).all()
    assert np.isnan(lse).all()


def test_scratch_must_be_contiguous():
    arrays = small.inputs()
    gaps = np.zeros((1 << 10, 1 << 10), np.uint8)[:, ::2]
    with pytest.raises(
        flashmla.InvalidArgumentError, match="workspace is not contiguous: stride 2 of axis 1"
    ) as caught:
        flashmla.dense_decode(*arrays, workspace=gaps)
    assert caught.value.status_name == "FLASHMLA_ERROR_STRIDE"
    with pytest.raises(flashmla.InvalidArgumentError, match="buffer is not contiguous"):
        flashmla.plan_decode(*arrays, buffer=gaps)


def test_scratch_on_another_device_is_refused():
    class Elsewhere:
        """Host memory that says it is on a GPU: only the device is looked at."""

        def __dlpack__(self, **_):
            capsule = np.zeros(1 << 20, np.uint8).__dlpack__(max_version=(1, 0))
            from flashmla import _tensor

            _tensor.pointer(capsule, "test").device.device_type = _tensor.CUDA
            return capsule

        def __dlpack_device__(self):
            return (2, 0)

    with pytest.raises(flashmla.InvalidArgumentError, match=r"workspace is on DLPack device \(2, 0\)") as caught:
        flashmla.dense_decode(*small.inputs(), workspace=Elsewhere())
    assert caught.value.status_name == "FLASHMLA_ERROR_MIXED_DEVICES"


@pytest.mark.parametrize("num_splits", [0, 1, 3])
def test_a_plan_serves_many_calls_and_changed_lengths(num_splits):
    arrays = small.inputs()
    plan = flashmla.plan_decode(*arrays, num_splits=num_splits)
    for lengths in ((5, 100), (128, 1), (0, 64), (1000, -3)):
        arrays[3][:] = lengths
        out, lse = flashmla.dense_decode(*arrays, plan=plan)
        small.check(out, lse, arrays)


def test_a_plan_keeps_its_buffer():
    arrays = small.inputs()
    plan = flashmla.plan_decode(*arrays)
    twin = copy.copy(plan)
    del plan
    gc.collect()
    reuse = [np.full(flashmla.plan_decode_size(*arrays), 0xFF, np.uint8) for _ in range(64)]
    out, lse = flashmla.dense_decode(*arrays, plan=twin)
    small.check(out, lse, arrays)
    del reuse


@pytest.mark.parametrize("kind", ["Plan", "Prepared"])
@pytest.mark.parametrize("way", [pickle.dumps, copy.deepcopy])
def test_what_holds_addresses_is_not_copied(kind, way):
    arrays = small.inputs()
    made = flashmla.plan_decode(*arrays) if kind == "Plan" else flashmla.prepare(flashmla.dense_decode, *arrays)
    with pytest.raises(TypeError, match=rf"^a flashmla\.{kind} cannot be pickled or deep-copied: .* Make another one"):
        way(made)
    with pytest.raises(TypeError, match=rf"^a flashmla\.{kind} cannot be pickled"):
        way({"in": [made]})


def test_a_plan_in_a_given_buffer():
    arrays = small.inputs()
    size = flashmla.plan_decode_size(*arrays)
    buffer = np.zeros(size, np.uint8)
    plan = flashmla.plan_decode(*arrays, buffer=buffer)
    assert buffer.any()
    out, lse = flashmla.dense_decode(*arrays, plan=plan)
    small.check(out, lse, arrays)
    with pytest.raises(flashmla.InvalidArgumentError) as caught:
        flashmla.plan_decode(*arrays, buffer=buffer[: size - 16])
    assert caught.value.status_name == "FLASHMLA_ERROR_WORKSPACE_TOO_SMALL"


def test_a_plan_for_another_call_is_refused():
    arrays = small.inputs()
    plan = flashmla.plan_decode(*arrays)
    for options in ({"causal": True}, {}):
        other = arrays if options else small.inputs(h_q=8)
        with pytest.raises(flashmla.InvalidArgumentError) as caught:
            flashmla.dense_decode(*other, plan=plan, **options)
        assert caught.value.status_name == "FLASHMLA_ERROR_PLAN_MISMATCH"
    with pytest.raises(TypeError, match="plan is an int"):
        flashmla.dense_decode(*arrays, plan=1)


def test_empty_calls_succeed():
    q, kv_cache, block_table, cache_seqlens = small.inputs()
    out, lse = flashmla.dense_decode(q[:0], kv_cache, block_table[:0], cache_seqlens[:0])
    assert out.shape == (0, 2, 4, 512)
    assert lse.shape == (0, 4, 2)
    out, lse = flashmla.dense_decode(q[:, :0], kv_cache, block_table, cache_seqlens)
    assert out.shape == (2, 0, 4, 512)
    assert lse.shape == (2, 4, 0)


@pytest.mark.parametrize("rank", [0, 1, 2, 3, 5])
def test_a_q_of_wrong_rank_is_refused_by_c(rank):
    _, *rest = small.inputs()
    with pytest.raises(flashmla.InvalidArgumentError, match=f"q.*{rank}") as caught:
        flashmla.dense_decode(np.zeros((1,) * rank, np.float32), *rest)
    assert caught.value.status_name == "FLASHMLA_ERROR_SHAPE"


def test_nothing_is_allocated_for_a_refused_call():
    """A q whose outputs would fill any memory is refused for its extents before outputs are made."""
    q, *rest = small.inputs()
    huge = np.lib.stride_tricks.as_strided(q, (2, 1 << 20, 1 << 20, 576), (0, 0, 0, 4))
    with pytest.raises(flashmla.InvalidArgumentError, match=r"q\.shape") as caught:
        flashmla.dense_decode(huge, *rest)
    assert caught.value.status_name == "FLASHMLA_ERROR_OVERFLOW"


def test_scalars():
    arrays = small.inputs()
    out, lse = flashmla.dense_decode(*arrays, softmax_scale=0.01, num_threads=1)
    small.check(out, lse, arrays, softmax_scale=0.01)
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(flashmla.InvalidArgumentError, match="softmax_scale") as caught:
            flashmla.dense_decode(*arrays, softmax_scale=scale)
        assert caught.value.status_name == "FLASHMLA_ERROR_VALUE"
        assert str(caught.value).endswith("or softmax_scale=None"), "C's flag has another name here"
    with pytest.raises(flashmla.InvalidArgumentError, match="num_splits"):
        flashmla.plan_decode(*arrays, num_splits=-1)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, int])
def test_scalars_of_other_types_that_say_the_same(kind):
    arrays = small.inputs()
    plan = flashmla.plan_decode(*arrays, causal=kind(1), num_splits=kind(3))
    options = {"causal": np.bool_(True), "softmax_scale": np.float32(0.25), "num_threads": kind(1), "stream": kind(0)}
    small.check(*flashmla.dense_decode(*arrays, plan=plan, **options), arrays, causal=True, softmax_scale=0.25)


TOO_LARGE = 2**40


@pytest.mark.parametrize(
    ("argument", "value", "kind", "sentence"),
    [
        ("softmax_scale", "x", TypeError, "softmax_scale is 'x', a str: a number is needed"),
        ("softmax_scale", "0.5", TypeError, "softmax_scale is '0.5', a str: a number is needed"),
        ("softmax_scale", True, TypeError, "softmax_scale is True, a bool: a number is needed"),
        ("softmax_scale", 10**400, ValueError, "softmax_scale is beyond 1.8e308; it must fit a float"),
        ("num_threads", 1.5, TypeError, "num_threads is 1.5, a float: an integer is needed"),
        ("num_threads", True, TypeError, "num_threads is True, a bool: an integer is needed"),
        ("num_splits", None, TypeError, "num_splits is None, a NoneType: an integer is needed"),
        ("num_splits", TOO_LARGE, ValueError, f"num_splits is {TOO_LARGE}; it must fit 32 bits"),
        ("stream", 2**70, ValueError, f"stream is {2**70}; it must be in [0, 2^64)"),
        ("stream", -1, ValueError, "stream is -1; it must be in [0, 2^64)"),
        ("stream", True, TypeError, "stream is True, a bool: an integer CUstream or a stream object is needed"),
        ("stream", "fast", TypeError, "stream is 'fast', a str: an integer CUstream or a stream object is needed"),
        ("causal", "no", TypeError, "causal is 'no', a str: True or False is needed"),
        ("causal", None, TypeError, "causal is None, a NoneType: True or False is needed"),
        ("causal", [], TypeError, "causal is [], a list: True or False is needed"),
    ],
)
def test_a_scalar_of_the_wrong_kind_is_named(argument, value, kind, sentence):
    operation = flashmla.plan_decode if argument == "num_splits" else flashmla.dense_decode
    with pytest.raises(kind, match=f"^{re.escape(sentence)}$") as caught:
        operation(*small.inputs(), **{argument: value})
    if kind is ValueError:
        assert caught.value.status_name == "FLASHMLA_ERROR_VALUE"


@pytest.mark.parametrize("attribute", ["cuda_stream", "ptr", "__cuda_stream__"])
def test_stream_objects(attribute):
    arrays = small.inputs()
    value = (lambda: (0, 0)) if attribute == "__cuda_stream__" else 0
    stream = type("Stream", (), {attribute: value if isinstance(value, int) else staticmethod(value)})()
    small.check(*flashmla.dense_decode(*arrays, stream=stream), arrays)


def test_classes_follow_the_hundreds():
    classes = {118: flashmla.InvalidArgumentError, 201: flashmla.UnsupportedError, 301: flashmla.DeviceError}
    for status, kind in classes.items():
        error = error_for(status, "a sentence")
        assert type(error) is kind
        assert isinstance(error, flashmla.FlashMLAError)
        assert (error.status, str(error)) == (status, "a sentence")
        assert error.status_name.startswith("FLASHMLA_ERROR_")
    assert issubclass(flashmla.InvalidArgumentError, ValueError)
    assert issubclass(flashmla.ABIMismatchError, ImportError)
    assert error_for(399, "new").status_name == "flashmla_status 399"


def test_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(error_for(111, "q is wrong")))
    assert type(error) is flashmla.InvalidArgumentError
    assert (error.status, str(error)) == (111, "q is wrong")


def test_each_thread_gets_its_own_sentence():
    arrays = small.inputs()
    wrong = {"q": 0, "kv_cache": 1}

    def refuse(name):
        found = set()
        for _ in range(200):
            changed = list(arrays)
            changed[wrong[name]] = arrays[wrong[name]][0]
            try:
                flashmla.dense_decode(*changed)
            except flashmla.InvalidArgumentError as error:
                found.add(str(error).partition(".")[0])
        return found

    assert at_once(refuse, wrong) == [{name} for name in wrong]
