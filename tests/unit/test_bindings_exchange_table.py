"""What the C side of the fast path asks of an exchange table, and what it makes of odd answers."""

import contextlib
import gc
import weakref

import numpy as np
import pytest

import exchange_table
import flashmla
import small
from exchange_table import Tensor
from flashmla import _exchange, _frameworks


@pytest.fixture
def exchange(monkeypatch):
    """The test framework, known to the binding."""
    made = exchange_table.Exchange()
    monkeypatch.setitem(_frameworks._KNOWN, (Tensor.__module__, "Tensor"), exchange_table.Framework())
    monkeypatch.delitem(_frameworks._BY_TYPE, Tensor, raising=False)
    monkeypatch.setattr(Tensor, "__dlpack_c_exchange_api__", made.capsule(), raising=False)
    _exchange.forget()
    yield made
    _exchange.forget()
    _frameworks._BY_TYPE.pop(Tensor, None)
    assert made.alive == {}, "scratch that nobody released"


def tensors(**options):
    return [Tensor(array) for array in small.inputs(**options)]


def outputs():
    return {
        "out": Tensor(np.zeros((2, 2, 4, 512), np.float32)),
        "lse": Tensor(np.zeros((2, 4, 2), np.float32)),
    }


def test_scratch_comes_from_the_table_and_goes_back(exchange):
    arguments, given = tensors(), outputs()
    out, lse = flashmla.dense_decode(*arguments, **given)
    assert out is given["out"]
    small.check(out.array, lse.array, [tensor.array for tensor in arguments])
    assert exchange.calls == ["allocate", "delete"]


def test_strides_that_are_not_told_are_compact(exchange):
    exchange.tells_strides = False
    arguments, given = tensors(), outputs()
    workspace = Tensor(np.empty(1 << 20, np.uint8))
    out, lse = flashmla.dense_decode(*arguments, **given, workspace=workspace)
    small.check(out.array, lse.array, [tensor.array for tensor in arguments])
    prepared = flashmla.prepare(flashmla.dense_decode, *arguments, **given, workspace=workspace)
    given["out"].array[:] = 0
    out, lse = prepared(q=arguments[0], out=given["out"])
    small.check(out.array, lse.array, [tensor.array for tensor in arguments])
    assert exchange.calls == []


def test_a_plan_keeps_the_scratch_that_was_made_for_it(exchange):
    arguments = tensors()
    plan = flashmla.plan_decode(*arguments)
    assert exchange.calls == ["allocate", "import"]
    memory = weakref.ref(plan._buffer)
    gc.collect()
    assert memory() is not None
    out, lse = flashmla.dense_decode(*arguments, plan=plan, **outputs())
    small.check(out.array, lse.array, [tensor.array for tensor in arguments])
    del plan
    gc.collect()
    assert memory() is None


def test_scratch_of_a_refused_call_is_released(exchange):
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^softmax_scale"):
        flashmla.dense_decode(*tensors(), **outputs(), softmax_scale=-1.0)
    assert exchange.calls == ["allocate", "delete"]


def test_an_allocator_that_fails_leaves_it_to_the_long_way(exchange):
    exchange.fails = True
    arguments = tensors()
    out, lse = flashmla.dense_decode(*arguments, **outputs())
    small.check(out.array, lse.array, [tensor.array for tensor in arguments])
    assert exchange.calls == []
    assert flashmla.plan_decode(*arguments)._buffer is not None


def test_calls_may_be_nested(exchange):
    """An allocator may collect garbage, and what dies may call: state of the outer call must not be shared."""
    arguments, inner_arguments = tensors(), tensors(lengths=(100, 3, 50), s_q=1)
    found = []

    def nested():
        exchange.before_allocation = lambda: None
        found.append(flashmla.dense_decode(*inner_arguments))

    exchange.before_allocation = nested
    out, lse = flashmla.dense_decode(*arguments, **outputs())
    small.check(out.array, lse.array, [tensor.array for tensor in arguments])
    small.check(*(tensor.array for tensor in found[0]), [tensor.array for tensor in inner_arguments])


def test_tensors_that_change_during_an_allocation_are_read_again(exchange):
    arguments = tensors()

    def change():
        for tensor in arguments:
            tensor.array = tensor.array.copy()
        arguments[0].array *= 2
        gc.collect()

    exchange.before_allocation = change
    out, lse = flashmla.dense_decode(*arguments, **outputs())
    small.check(out.array, lse.array, [tensor.array for tensor in arguments])


def test_a_shape_that_changes_during_an_allocation_is_refused(exchange):
    arguments, given = tensors(), outputs()

    def change():
        arguments[0].array = arguments[0].array[:1].copy()

    exchange.before_allocation = change
    with pytest.raises(flashmla.InvalidArgumentError, match=r"batch|shape"):
        flashmla.dense_decode(*arguments, **given)
    assert not given["out"].array.any()


def test_work_on_a_device_asks_for_its_current_stream(exchange):
    arguments = [Tensor(tensor.array, (2, 3)) for tensor in (*tensors(), *outputs().values())]
    scratch = Tensor(np.empty(1 << 20, np.uint8), (2, 3))
    with contextlib.suppress(flashmla.FlashMLAError):  # no driver, no such device or no kernels
        flashmla.dense_decode(*arguments[:4], out=arguments[4], lse=arguments[5], workspace=scratch)
    assert exchange.calls[0] == ("stream", 2, 3)


@pytest.mark.usefixtures("exchange")
def test_scratch_is_looked_at_as_it_is_the_long_way():
    arguments = tensors()
    wrong = {
        "is not contiguous: stride 2": Tensor(np.zeros((1 << 10, 1 << 11), np.uint8)[:, ::2]),
        r"is on DLPack device \(2, 0\)": Tensor(np.zeros(1 << 20, np.uint8), (2, 0)),
        r"starts 18446744073709551600 bytes behind its data, which is beyond address 2\^64": Tensor(
            np.zeros(1 << 20, np.uint8), byte_offset=2**64 - 16
        ),
    }
    for words, workspace in wrong.items():
        plain = exchange_table.Tensor.__dlpack__

        def elsewhere(self, _plain=plain, **options):
            capsule = _plain(self, **options)
            from flashmla import _tensor

            exported = _tensor.pointer(capsule, "test")
            exported.device.device_type = self.device[0]
            exported.byte_offset = self.byte_offset
            return capsule

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tensor, "__dlpack__", elsewhere)
            with pytest.raises(flashmla.InvalidArgumentError, match=rf"^workspace {words}"):
                flashmla.dense_decode(*arguments, **outputs(), workspace=workspace)


@pytest.mark.parametrize(
    ("majors", "usable"), [([1], True), ([2, 1], True), ([3, 2, 1], True), ([2], False), ([0], False)]
)
def test_versions_of_the_table(exchange, majors, usable):
    """A newer table may name an older one behind it."""
    tables = []
    for major in reversed(majors):
        older = exchange_table.ctypes.addressof(tables[-1]) if tables else None
        functions = [getattr(exchange.table, name) for name, _ in exchange_table.Table._fields_[3:]]
        tables.append(exchange_table.Table(major, 0, older, *functions))
    kind = type("Other", (), {"__dlpack_c_exchange_api__": exchange.capsule(tables[-1])})
    assert (_exchange._table_of(kind) is not None) == usable


def test_a_table_that_cannot_lend_a_tensor_is_not_used(exchange):
    table = exchange_table.Table(1, 3, None, exchange.table.allocate)
    assert _exchange._table_of(type("Other", (), {"__dlpack_c_exchange_api__": exchange.capsule(table)})) is None


def test_a_library_of_another_build_is_left_alone(exchange):
    """A description of another size than the library's own is not read."""
    arguments, given = tensors(), outputs()
    flashmla.dense_decode(*arguments, **given)
    exchange.calls.clear()
    fast = _exchange.fast_call(
        flashmla._dense_decode._OPERATION.form(1), Tensor, params=flashmla._dense_decode._OPERATION.new_params()
    )
    optional = [None] * len(flashmla._dense_decode._OPERATION.optional)
    objects = [*arguments, *optional, *given.values(), None, None]
    assert fast.call(*objects) == _exchange.ffi.integer_const("FLASHMLA_ERROR_VALUE"), "softmax_scale is 0"
    fast._kept[0].struct_size += 8
    assert fast.call(*objects) == _exchange.UNUSUAL
    fast._kept[0].struct_size -= 8
    assert fast.call(*objects[:-1]) == _exchange.UNUSUAL, "an object too few"
