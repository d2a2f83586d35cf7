"""The few array operations of the serving demo, the same over NumPy, PyTorch and CuPy.

The library takes each framework's arrays as they are; these classes only keep the demo from caring which one is there.
JAX is missing: its arrays never change, and a pool's pages are written in place.
"""

import importlib
import importlib.util
import math
from typing import Any

import numpy as np

import flashmla

Array = Any  # an array of the framework at hand


def cpu_backend() -> str:
    return f"the CPU backend ({flashmla.info()['cpu_isa']})"


class NumPyArrays:
    """NumPy on the host; bfloat16 where ml_dtypes is installed, else float16."""

    device = "cpu"

    def __init__(self) -> None:
        self.xp: Any = np
        try:
            self.dtype: Any = importlib.import_module("ml_dtypes").bfloat16
            self.dtype_name = "bfloat16"
        except ImportError:
            self.dtype, self.dtype_name = np.float16, "float16"

    def describe(self) -> str:
        return f"NumPy {self.dtype_name} on {cpu_backend()}"

    def from_host(self, array: np.ndarray) -> Array:
        return array

    def to_host(self, array: Array) -> np.ndarray:
        """In float64 if it holds floating-point numbers, else as it is."""
        return array if array.dtype.kind in "iu" else array.astype(np.float64)

    def full(self, shape: tuple[int, ...], value: float) -> Array:
        """A new array of the compute dtype."""
        return self.xp.full(shape, value, self.dtype)

    def host_memory(self, shape: tuple[int, ...]) -> Array:
        """Bytes on the host, where a GPU can copy from and to them by itself."""
        return np.empty(shape, np.uint8)

    def float32(self, array: Array) -> Array:
        return array.astype(np.float32)

    def largest(self, array: Array, count: int) -> Array:
        """Where the `count` largest numbers of each row are, in any order."""
        return self.xp.argpartition(-array, count - 1)[:, :count]

    def synchronize(self) -> None:
        """The CPU backend returns when the result is there."""


class CuPyArrays(NumPyArrays):
    """CuPy on the current GPU, float16."""

    device, dtype, dtype_name = "cuda", np.float16, "float16"

    def __init__(self) -> None:
        self.xp = importlib.import_module("cupy")

    def capability(self) -> str:
        return str(self.xp.cuda.Device().compute_capability)

    def describe(self) -> str:
        name = self.xp.cuda.runtime.getDeviceProperties(0)["name"].decode()
        return f"CuPy {self.dtype_name} on {name}"

    def from_host(self, array: np.ndarray) -> Array:
        return self.xp.asarray(array)

    def to_host(self, array: Array) -> np.ndarray:
        return super().to_host(self.xp.asnumpy(array))

    def host_memory(self, shape: tuple[int, ...]) -> Array:
        memory = self.xp.cuda.alloc_pinned_memory(math.prod(shape))
        return np.frombuffer(memory, np.uint8, math.prod(shape)).reshape(shape)

    def synchronize(self) -> None:
        self.xp.cuda.Device().synchronize()


class TorchArrays:
    """PyTorch on the GPU or on the host, bfloat16."""

    dtype_name = "bfloat16"

    def __init__(self, device: str) -> None:
        self.xp: Any = importlib.import_module("torch")
        self.dtype = self.xp.bfloat16
        self.device = device

    def capability(self) -> str:
        return "".join(map(str, self.xp.cuda.get_device_capability()))

    def describe(self) -> str:
        on = self.xp.cuda.get_device_name() if self.device == "cuda" else cpu_backend()
        return f"PyTorch {self.dtype_name} on {on}"

    def from_host(self, array: np.ndarray) -> Array:
        return self.xp.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def to_host(self, array: Array) -> np.ndarray:
        """In float64 if it holds floating-point numbers, else as it is."""
        return (array.double() if array.is_floating_point() else array).cpu().numpy()

    def full(self, shape: tuple[int, ...], value: float) -> Array:
        """A new array of the compute dtype."""
        return self.xp.full(shape, value, dtype=self.dtype, device=self.device)

    def host_memory(self, shape: tuple[int, ...]) -> Array:
        return self.xp.empty(shape, dtype=self.xp.uint8, pin_memory=self.device == "cuda")

    def float32(self, array: Array) -> Array:
        return array.float()

    def largest(self, array: Array, count: int) -> Array:
        """Where the `count` largest numbers of each row are, in any order."""
        return array.topk(count).indices

    def synchronize(self) -> None:
        if self.device == "cuda":
            self.xp.cuda.synchronize()


def choose(framework: str | None, device: str | None) -> tuple[NumPyArrays | TorchArrays, str]:
    """The arrays to serve from, and why not from a GPU ('' if they are on one or none was wanted).

    Without a wish: PyTorch or CuPy, whichever imports, if the library and it see a Hopper GPU; else PyTorch, if it is
    installed, or NumPy on the CPU.
    """
    if device == "cpu" or framework == "numpy":
        return cpu_arrays(framework), ""
    facts = flashmla.info()
    why_not = facts["driver_error"] or ""
    if not any(kernel["target"] != "cpu" for kernel in facts["kernels"]):
        why_not = why_not or "this build of the library has no GPU kernels"
    if not why_not:
        arrays, why_not = gpu_arrays(framework)
        if arrays is not None:
            return arrays, ""
    if device == "cuda" or framework == "cupy":
        raise SystemExit(f"no GPU to serve from: {why_not}")
    return cpu_arrays(framework), why_not


def cpu_arrays(framework: str | None) -> NumPyArrays | TorchArrays:
    if framework == "cupy":
        raise SystemExit("CuPy has no arrays on the CPU")
    installed = importlib.util.find_spec("torch") is not None
    if framework == "torch" and not installed:
        raise SystemExit("PyTorch is not installed")
    return TorchArrays("cpu") if framework != "numpy" and installed else NumPyArrays()


def gpu_arrays(framework: str | None) -> tuple[TorchArrays | CuPyArrays | None, str]:
    """Arrays of the wanted framework, or of the first that works, on a Hopper GPU; else why there are none."""
    reasons = []
    for name, make in (("torch", lambda: TorchArrays("cuda")), ("cupy", CuPyArrays)):
        if framework not in (None, name):
            continue
        try:
            arrays = make()
            capability = arrays.capability()
        except Exception as error:  # noqa: BLE001 (each framework has its own ways to say that it sees no GPU)
            reasons.append(f"{name}: {error}")
            continue
        if capability == "90":
            return arrays, ""
        reasons.append(f"the GPU is of compute capability {capability[:-1]}.{capability[-1]}, the kernels are for 9.0")
    return None, "; ".join(reasons)
