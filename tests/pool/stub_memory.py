"""Caches on the device of the stub driver: NumPy's memory that says it is a GPU's, and work that its streams do as late as
they may. For processes that stub_driver/stub.py starts."""

from __future__ import annotations

import ctypes

import numpy as np

from flashmla import _frameworks, _tensor
from flashmla._frameworks import NumPy
from stub_driver.host import driver, enter

STREAM = 7  # that callers work on
ANOTHER = 8


class DeviceArray:
    """What lies on the device: only streams change it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.shape, self.dtype, self.nbytes = array.shape, array.dtype, array.nbytes

    def swapaxes(self, a: int, b: int) -> DeviceArray:
        return DeviceArray(self.array.swapaxes(a, b))

    def __iter__(self):
        return map(DeviceArray, self.array)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _tensor.CUDA, 0


class Device(NumPy):
    stream = STREAM

    def export(self, tensor, argument, stream):
        capsule = super().export(tensor.array, argument, stream)
        _tensor.pointer(capsule, argument).device.device_type = _tensor.CUDA
        return capsule

    def empty(self, like, argument, shape, dtype, stream):
        return DeviceArray(np.full(shape, 77, dtype or like.dtype))

    def address(self, tensor) -> int:
        return tensor.array.ctypes.data

    def pinned(self, size: int):
        made = np.zeros(size, "uint8")
        return made, made.ctypes.data

    def current_stream(self, tensor) -> int:
        return self.stream


_frameworks._BY_TYPE[DeviceArray] = Device()  # noqa: SLF001


enter(0)


def copied(to: int, from_: int, size: int, stream: int = STREAM) -> None:
    assert driver.cuMemcpyAsync(*map(ctypes.c_uint64, (to, from_, size, stream))) == 0


class StubMemory:
    """`write` enqueues; `read` waits for all streams."""

    def __init__(self) -> None:
        self.kept: list[np.ndarray] = []  # what copies read when they are done

    def made(self, array: np.ndarray) -> DeviceArray:
        return DeviceArray(array)

    def host(self, array: np.ndarray) -> np.ndarray:
        return array

    def write(self, layer: DeviceArray, rows: np.ndarray, slots, page_size: int) -> None:
        self.kept.append(rows)
        for row, slot in zip(rows, slots, strict=True):
            place = layer.array[slot // page_size, slot % page_size]
            copied(place.ctypes.data, row.ctypes.data, row.nbytes)

    def poison(self, layer: DeviceArray, pages: list[int]) -> None:
        driver.stub_finish()  # swaps may be reading what is free
        layer.array[pages] = np.nan

    def read(self, tensor) -> np.ndarray:
        driver.stub_finish()
        return getattr(tensor, "array", tensor).copy()
