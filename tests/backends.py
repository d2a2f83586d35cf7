"""The devices that calls run on and the frameworks that hold their tensors.

Data is made in NumPy and moved by an adapter, so that one test runs on all of them.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.lib.stride_tricks import as_strided

from buffers import DTYPES, POISON, host_bytes


class Adapter:
    """Tensors of one framework on one device."""

    def call(self, operation, *arguments, **options):
        """Makes a call of the package twice, which must give the same: it may go another way once its shapes are known.

        The second one is what is checked.
        """
        operation(*arguments, **options)
        return operation(*arguments, **options)


class LongWay(Adapter):
    """Calls that go the way of tensors for which there is no fast one."""

    def call(self, operation, *arguments, **options):
        from flashmla._exchange import long_way

        with long_way():
            return operation(*arguments, **options)


class Prepared(Adapter):
    """Calls that are prepared, and then made with the same tensors named again."""

    def call(self, operation, *arguments, **options):
        import flashmla

        prepared = flashmla.prepare(operation, *arguments, **options)
        given = inspect.signature(operation).bind(*arguments, **options).arguments
        others = {name: given[name] for name in prepared._positions if given.get(name) is not None}
        return prepared(**others)


class NumpyAdapter(Adapter):
    """Host memory. The buffer is shared, so a write outside a tensor is seen where it happened."""

    name = "numpy"
    dtypes = tuple(DTYPES)
    writable = True  # the library may write into tensors that the caller made

    def poisoned(self, size: int):
        """A buffer of poison."""
        return host_bytes(size)

    def place(self, host: np.ndarray):
        """The bytes as a buffer of this framework."""
        return host

    def view(self, buffer, dtype: str, shape, strides, offset: int):
        """A tensor in the buffer; strides in elements, offset in bytes."""
        kind = DTYPES[dtype]
        return as_strided(buffer[offset:].view(kind), shape, [step * kind.itemsize for step in strides])

    def fetch(self, buffer) -> np.ndarray:
        """The bytes of the buffer, when all work on it is done."""
        return buffer

    def to_numpy(self, tensor) -> np.ndarray:
        """The elements of a tensor that the library made."""
        return np.asarray(tensor)

    def address(self, tensor) -> int:
        return tensor.ctypes.data


class TorchAdapter(Adapter):
    """PyTorch tensors of one device."""

    name = "torch"
    dtypes = tuple(DTYPES)
    writable = True

    def __init__(self, device: str):
        self.device = device

    def poisoned(self, size: int):
        import torch

        if self.device == "cpu":
            return torch.from_numpy(host_bytes(size))
        return torch.full((size,), POISON, dtype=torch.uint8, device=self.device)

    def place(self, host: np.ndarray):
        import torch

        return torch.from_numpy(host).to(self.device)

    def view(self, buffer, dtype: str, shape, strides, offset: int):
        import torch

        kind = getattr(torch, dtype)
        return buffer.view(kind).as_strided(shape, strides, offset // kind.itemsize)

    def fetch(self, buffer) -> np.ndarray:
        return buffer.cpu().numpy()

    def to_numpy(self, tensor) -> np.ndarray:
        import torch

        if tensor.dtype == torch.bfloat16:
            return tensor.cpu().contiguous().view(torch.int16).numpy().view(DTYPES["bfloat16"])
        return tensor.cpu().numpy()

    def address(self, tensor) -> int:
        return tensor.data_ptr()


class TorchLongWay(LongWay, TorchAdapter):
    name = "torch-long-way"


class TorchPrepared(Prepared, TorchAdapter):
    name = "torch-prepared"


class NumpyPrepared(Prepared, NumpyAdapter):
    name = "numpy-prepared"


class CupyAdapter(Adapter):
    """CuPy arrays, of float16: not every CuPy knows bfloat16."""

    name = "cupy"
    dtypes = ("float16",)
    writable = True

    def poisoned(self, size: int):
        import cupy

        return cupy.full(size, POISON, cupy.uint8)

    def place(self, host: np.ndarray):
        import cupy

        return cupy.asarray(host)

    def view(self, buffer, dtype: str, shape, strides, offset: int):
        import cupy

        kind = DTYPES[dtype]
        steps = tuple(step * kind.itemsize for step in strides)
        return cupy.ndarray(shape, kind, buffer.data + offset, steps)

    def fetch(self, buffer) -> np.ndarray:
        return buffer.get()

    def to_numpy(self, tensor) -> np.ndarray:
        return tensor.get()

    def address(self, tensor) -> int:
        return tensor.data.ptr


class JaxAdapter(Adapter):
    """JAX arrays of one platform: immutable and compact. Inputs are copies; outputs and scratch are the library's."""

    name = "jax"
    dtypes = tuple(DTYPES)
    writable = False

    def __init__(self, platform: str):
        self.platform = platform

    def poisoned(self, size: int):
        return host_bytes(size)

    def place(self, host: np.ndarray):
        return host

    def view(self, buffer, dtype: str, shape, strides, offset: int):
        import jax

        elements = NumpyAdapter().view(buffer, dtype, shape, strides, offset)
        return jax.device_put(elements.copy(), jax.devices(self.platform)[0])

    def fetch(self, buffer) -> np.ndarray:
        return buffer

    def to_numpy(self, tensor) -> np.ndarray:
        return np.asarray(tensor)


@dataclass(frozen=True)
class Backend:
    """A device of the library with what it supports and the frameworks that reach it."""

    name: str
    device: tuple[int, int]  # DLPack's device type and number
    dtypes: tuple[str, ...]
    page_sizes: tuple[int, ...]
    adapters: dict[str, object]  # by framework; the first one also serves the C ABI

    def adapter(self, route: str):
        """The adapter of a case's route."""
        return self.adapters[route] if route in self.adapters else next(iter(self.adapters.values()))

    @property
    def routes(self) -> tuple[str, ...]:
        return ("c", *self.adapters)


def has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


# Divisors and multiples of the 64 tokens that are worked on as one, and those that are neither. A GPU loads boxes of a
# power of two of rows: of 16 and of 32 with 48, 80, 96 and 272, of single rows with odd ones.
PAGE_SIZES = (64, 1, 2, 7, 16, 19, 32, 48, 53, 80, 96, 128, 256, 272, 1056)


@cache
def cpu() -> Backend:
    adapters: dict[str, object] = {"numpy": NumpyAdapter(), "numpy-prepared": NumpyPrepared()}
    if has("torch"):
        adapters["torch"] = TorchAdapter("cpu")
        adapters["torch-long-way"] = TorchLongWay("cpu")
        adapters["torch-prepared"] = TorchPrepared("cpu")
    if has("jax"):
        adapters["jax"] = JaxAdapter("cpu")
    return Backend("cpu", (1, 0), ("bfloat16", "float16", "float32"), PAGE_SIZES, adapters)


@cache
def gpu() -> tuple[Backend | None, str]:
    """The GPU backend and what it is, or None and why there is none: the library itself has to run on it."""
    if not has("torch"):
        return None, "PyTorch, which holds the GPU tensors of these tests, is not installed"
    import torch

    if not torch.cuda.is_available():
        return None, "PyTorch finds no CUDA device"
    import flashmla

    zeros = torch.zeros(1, 64, 1, 576, dtype=torch.bfloat16, device="cuda")
    ints = torch.zeros(1, 1, dtype=torch.int32, device="cuda")
    try:
        flashmla.dense_decode(zeros[:, :1], zeros, ints, ints[0])
        torch.cuda.synchronize()
    except flashmla.FlashMLAError as error:
        return None, str(error)
    index = zeros.device.index  # now: initialising JAX may change the current device
    place = f"cuda:{index}"
    adapters: dict[str, object] = {
        "torch": TorchAdapter(place),
        "torch-long-way": TorchLongWay(place),
        "torch-prepared": TorchPrepared(place),
    }
    if has("cupy"):
        adapters["cupy"] = CupyAdapter()
    if has("jax") and jax_has_gpu():
        adapters["jax"] = JaxAdapter("gpu")
    backend = Backend("gpu", (2, index), ("bfloat16", "float16"), PAGE_SIZES, adapters)
    return backend, torch.cuda.get_device_name(index)


def jax_has_gpu() -> bool:
    """JAX is installed with GPU support. It would take most of the memory at once, so it is told not to."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    return any(device.platform == "gpu" for device in jax.devices())


def available() -> dict[str, Backend]:
    """Every backend that can run here, by name."""
    found, _ = gpu()
    return {"cpu": cpu()} | ({"gpu": found} if found else {})
