"""NumPy's memory that says it is a GPU's, for processes with the stub driver: PagedKVCache takes it."""

from __future__ import annotations

import numpy as np

from flashmla import _frameworks, _tensor
from flashmla._frameworks import NumPy

STREAM = 7  # that callers work on


class DeviceArray:
    """What lies on the device: only streams change it."""

    number = 0  # of the device

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.shape, self.dtype, self.nbytes = array.shape, array.dtype, array.nbytes

    def swapaxes(self, a: int, b: int) -> DeviceArray:
        return DeviceArray(self.array.swapaxes(a, b))

    def __iter__(self):
        return map(DeviceArray, self.array)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _tensor.CUDA, self.number


class Device(NumPy):
    stream = STREAM

    def export(self, tensor, argument, stream):
        capsule = super().export(tensor.array, argument, stream)
        _tensor.pointer(capsule, argument).device = (_tensor.CUDA, tensor.number)
        return capsule

    def empty(self, like, argument, shape, dtype, stream):
        del argument, stream
        return DeviceArray(np.full(shape, 77, dtype or like.dtype))

    def address(self, tensor) -> int:
        return tensor.array.ctypes.data

    def pinned(self, size: int):
        made = np.zeros(size, "uint8")
        return made, made.ctypes.data

    def current_stream(self, tensor) -> int:
        del tensor
        return self.stream


_frameworks._BY_TYPE[DeviceArray] = Device()
