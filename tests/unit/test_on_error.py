"""What on_error makes of calls that fail: who raises, who is saved, what is counted, and that results are right."""

from __future__ import annotations

import contextlib
import warnings

import numpy as np
import pytest

import flashmla
import small
from flashmla import _on_error
from flashmla._exchange import long_way
from flashmla._library import lib

TENSORS = small.inputs()
DRIVER, UNSUPPORTED, LOST = 301, 200, 302


@pytest.fixture(autouse=True)
def restored():
    """No policy, no count and no failure of a test reaches another."""
    _on_error._found.clear()
    yield
    flashmla.on_error("raise")
    _on_error._found.clear()


def counts():
    return [(one.operation, one.status, one.count) for one in flashmla.fallbacks()]


@pytest.mark.parametrize("status", [DRIVER, UNSUPPORTED, LOST])
def test_calls_raise_if_nobody_asks_for_more(status):
    flashmla.dense_decode(*TENSORS)
    flashmla.fail_next("dense_decode", status)
    kind = flashmla.UnsupportedError if status == UNSUPPORTED else flashmla.DeviceError
    with pytest.raises(kind, match="on request"):
        flashmla.dense_decode(*TENSORS)
    assert counts() == []
    small.check(*flashmla.dense_decode(*TENSORS), TENSORS)


@pytest.mark.parametrize("way", ["fast", "long"])
@pytest.mark.parametrize("given", [False, True])
def test_a_failed_call_is_made_on_the_cpu(way, given):
    expected = flashmla.dense_decode(*TENSORS)
    outputs = {"out": np.full_like(expected[0], np.nan), "lse": np.full_like(expected[1], np.nan)} if given else {}
    flashmla.on_error("cpu")
    flashmla.fail_next("dense_decode", DRIVER)
    warned = pytest.warns(RuntimeWarning, match="dense_decode failed and was saved by on_error: .* on request")
    with warned, long_way() if way == "long" else contextlib.nullcontext():
        found = flashmla.dense_decode(*TENSORS, **outputs)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    if given:
        assert found[0] is outputs["out"]
        assert found[1] is outputs["lse"]
    assert counts() == [("dense_decode", DRIVER, 1)]
    assert "on request" in flashmla.fallbacks()[0].reason


def test_the_first_of_a_kind_warns():
    flashmla.on_error("cpu")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(3):
            flashmla.fail_next("dense_decode", DRIVER)
            flashmla.dense_decode(*TENSORS, return_lse=False)
    assert len(found) == 1
    assert found[0].filename == __file__, "the line of the caller"
    assert counts() == [("dense_decode", DRIVER, 3)]


def every_operation():
    out, lse = flashmla.dense_decode(*TENSORS)
    q, cache = TENSORS[:2]
    rows = np.ones((3, 576), np.float32)
    pages = flashmla.quantize_kv(rows[:, :512], rows[:, 512:], out=np.zeros((1, 64, 1, 656), np.uint8), kv_format="v32")
    return {
        "sparse_decode": lambda: flashmla.sparse_decode(q, cache, np.zeros((2, 2, 5), np.int32)),
        "merge_states": lambda: flashmla.merge_states([out, out], [lse, lse]),
        "append_kv": lambda: flashmla.append_kv(np.zeros_like(cache), rows, None, np.array([1, 3, 5])),
        "quantize_kv": lambda: flashmla.quantize_kv(
            rows[:, :512], rows[:, 512:], out=np.zeros((1, 64, 1, 656), np.uint8), kv_format="v32"
        ),
        "dequantize_kv": lambda: flashmla.dequantize_kv(pages, kv_format="v32"),
        "gather_kv": lambda: flashmla.gather_kv(
            cache, TENSORS[2], np.array([0, 2, 5], np.int32), out=np.zeros((5, 576), np.float32)
        ),
    }


@pytest.mark.parametrize(
    "name", ["sparse_decode", "merge_states", "append_kv", "quantize_kv", "dequantize_kv", "gather_kv"]
)
def test_every_operation_is_saved(name):
    call = every_operation()[name]
    expected = call()
    flashmla.on_error("cpu")
    flashmla.fail_next(name, DRIVER)
    with pytest.warns(RuntimeWarning, match=name):
        found = call()
    pairs = zip(found, expected, strict=True) if isinstance(expected, tuple) else [(found, expected)]
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)
    assert counts() == [(name, DRIVER, 1)]


@pytest.mark.parametrize("maker", ["plan_decode", "plan_sparse_decode"])
def test_a_plan_that_cannot_be_made_leaves_calls_to_themselves(maker):
    flashmla.on_error("cpu")
    flashmla.fail_next(maker, DRIVER)
    indices = np.zeros((2, 2, 5), np.int32)
    with pytest.warns(RuntimeWarning, match=maker):
        plan = (
            flashmla.plan_decode(*TENSORS)
            if maker == "plan_decode"
            else flashmla.plan_sparse_decode(TENSORS[0], indices)
        )
    for _ in range(2):
        if maker == "plan_decode":
            small.check(*flashmla.dense_decode(*TENSORS, plan=plan), TENSORS)
        else:
            found = flashmla.sparse_decode(*TENSORS[:2], indices, plan=plan)
            for one, other in zip(found, flashmla.sparse_decode(*TENSORS[:2], indices), strict=True):
                np.testing.assert_array_equal(one, other)


def test_wrong_calls_always_raise():
    flashmla.on_error("cpu")
    with pytest.raises(flashmla.InvalidArgumentError):
        flashmla.dense_decode(*TENSORS[:3], TENSORS[3].astype(np.int64))
    assert counts() == []


@pytest.mark.parametrize("columns", [256, 576])
def test_an_out_of_wrong_width_is_no_failure(columns):
    """No backend takes it: d_v follows from d_qk."""
    seen = []
    flashmla.on_error(lambda failure: seen.append(failure) or failure.on_cpu())
    out = np.zeros((*TENSORS[0].shape[:-1], columns), np.float32)
    sentence = rf"^out\.shape\[3\] \(d_v\) is {columns}; with d_qk 576 it must be 512$"
    calls = {
        "dense_decode": lambda: flashmla.dense_decode(*TENSORS, out=out),
        "sparse_decode": lambda: flashmla.sparse_decode(*TENSORS[:2], np.zeros((2, 2, 5), np.int32), out=out),
    }
    for call in calls.values():
        with pytest.raises(flashmla.InvalidArgumentError, match=sentence) as caught:
            call()
        assert caught.value.status_name == "FLASHMLA_ERROR_SHAPE"
    assert seen == []


def test_what_the_package_refuses_is_not_tried_on_the_cpu():
    torch = pytest.importorskip("torch")
    tensors = [torch.from_numpy(array) for array in TENSORS]
    tensors[0].requires_grad_()
    flashmla.on_error("cpu")
    with pytest.raises(flashmla.UnsupportedError, match="requires a gradient"):
        flashmla.dense_decode(*tensors)
    assert counts() == []


def test_a_function_decides():
    seen = []

    def policy(failure):
        seen.append((failure.operation, failure.error.status))
        if failure.error.status == LOST:
            raise failure.error
        return failure.on_cpu()

    assert flashmla.on_error(policy) == "raise"
    flashmla.fail_next("dense_decode", DRIVER)
    with pytest.warns(RuntimeWarning, match="dense_decode"):
        small.check(*flashmla.dense_decode(*TENSORS), TENSORS)
    flashmla.fail_next("dense_decode", LOST)
    with pytest.raises(flashmla.DeviceError):
        flashmla.dense_decode(*TENSORS)
    assert seen == [("dense_decode", DRIVER), ("dense_decode", LOST)]
    assert counts() == [("dense_decode", DRIVER, 1)], "what was not saved is not counted"


def test_what_a_function_returns_is_looked_at():
    flashmla.on_error(lambda _failure: None)
    flashmla.fail_next("dense_decode", DRIVER)
    with pytest.raises(TypeError, match="a tuple of 2 outputs is needed"):
        flashmla.dense_decode(*TENSORS)


def test_a_call_that_fails_on_the_cpu_too_raises_its_first_error(monkeypatch):
    flashmla.on_error("cpu")
    monkeypatch.setattr(_on_error, "_to_host", lambda _tensor: 1 / 0)
    flashmla.fail_next("dense_decode", LOST)
    with pytest.raises(flashmla.DeviceError, match="on request") as caught:
        flashmla.dense_decode(*TENSORS)
    assert caught.value.status == LOST
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("policy", ["gpu", None, 3])
def test_other_policies_are_refused(policy):
    with pytest.raises(TypeError, match='"raise", "cpu" or a function is needed'):
        flashmla.on_error(policy)


def test_copies_come_and_go_with_the_framework():
    """PyTorch: outputs are its tensors, and those that are given are filled."""
    torch = pytest.importorskip("torch")
    tensors = [torch.from_numpy(array) for array in TENSORS]
    expected, _ = flashmla.dense_decode(*tensors)
    out = torch.full_like(expected, float("nan"))
    flashmla.on_error("cpu")
    flashmla.fail_next("dense_decode", DRIVER)
    with pytest.warns(RuntimeWarning, match="dense_decode"):
        found = flashmla.dense_decode(*tensors, out=out, return_lse=False)
    assert found is out
    assert torch.equal(out, expected)


@pytest.mark.parametrize(
    ("name", "status", "after", "words"),
    [
        (b"dense_decod", DRIVER, 0, 'operation is "dense_decod"'),
        (b"dense_decode", 110, 0, "status is 110; it must be one of 2xx or 3xx"),
        (b"dense_decode", 400, 0, "status is 400; it must be one of 2xx or 3xx"),
        (b"dense_decode", 399, 0, "status is 399"),
        (b"dense_decode", -1, 0, "status is -1"),
        ("é".encode() * 31 + b"x" + "é".encode(), DRIVER, 0, 'operation is "é'),  # cut within a letter
        (b"dense_decode", DRIVER, -1, "after is -1"),
    ],
)
def test_failures_that_cannot_be_asked_for(name, status, after, words):
    with pytest.raises(flashmla.InvalidArgumentError, match=words):
        flashmla.fail_next(name.decode(), status, after=after)
    assert lib.flashmla_dense_decode is not None


def test_a_failure_after_others():
    flashmla.fail_next("dense_decode", DRIVER, after=2)
    for _ in range(2):
        flashmla.dense_decode(*TENSORS)
    with pytest.raises(flashmla.DeviceError):
        flashmla.dense_decode(*TENSORS)
    flashmla.dense_decode(*TENSORS)
