"""What differs between frameworks: exporting a tensor, making one like q, the current stream.

Nothing here imports a framework: whoever passes a tensor of one has imported it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from flashmla import _tensor
from flashmla._cdef import ffi
from flashmla._scalars import STREAM, integer

_DLPACK_VERSION = (1, 0)
_BFLOAT16: int = ffi.integer_const("kDLBfloat")
# Streams in DLPack (array API standard, `__dlpack__`): 1 is CUDA's legacy default stream, which CUDA calls 0; -1 asks
# for no synchronisation.
_LEGACY_STREAM = 1
_NO_WAIT = -1


Described = tuple[tuple[int, ...], "str | None"]
"""Shape and dtype of a tensor to be made; None is the dtype of the tensor that it is made like."""


class Framework:
    """Any other DLPack exporter: it can be read and written, but no tensor of it can be made.

    A `stream` of None is the framework's own current one: its tensors are ready there and its memory belongs there.
    """

    mutable = True
    """Tensors may be written by others."""
    exchanged_if: tuple[str, object] | None = None
    """Set where a tensor type's DLPack exchange table tells all there is to know about a tensor: the attribute that the
    type's own export looks at, the table does not, and the value that it must have."""
    exports_capsules = False
    """`export` takes little time and makes capsules of DLPack 1."""
    waits = False
    """An operation returns when its results are there."""

    def export(self, tensor: Any, argument: str, stream: int | None) -> Any:
        """A DLPack capsule whose contents are ready for work on `stream`."""
        try:
            device_of = tensor.__dlpack_device__
        except AttributeError:
            kind = type(tensor).__qualname__
            raise TypeError(f"{argument} is a {kind}: a tensor that supports DLPack is needed") from None
        on_device = device_of()[0] != _tensor.CPU
        options: dict[str, Any] = {}
        if on_device:
            options["stream"] = _NO_WAIT if stream is None else stream or _LEGACY_STREAM
        try:
            return tensor.__dlpack__(max_version=_DLPACK_VERSION, **options)
        except TypeError as error:
            # An exporter older than DLPack 1.0 refuses the argument by name, or as C code does, without a frame.
            inside = error.__traceback__ is not None and error.__traceback__.tb_next is not None
            if inside and "max_version" not in str(error):
                raise
        return tensor.__dlpack__(**options)

    def empty(self, like: Any, argument: str, shape: tuple[int, ...], dtype: str | None, stream: int | None) -> Any:
        """A new compact tensor, device as `like`, for work on `stream`. `dtype` None is that of `like`."""
        del shape, dtype, stream
        kind = type(like).__qualname__
        raise TypeError(
            f"{argument} is a {kind}: memory is made for torch, CuPy, JAX, NumPy; "
            "pass what the call would make: its outputs (out, lse) and its scratch (workspace, buffer)"
        )

    def empties(self, like: Any, argument: str, made: Sequence[Described], stream: int | None) -> Sequence[Any]:
        """`empty` for several (shape, dtype)."""
        return [self.empty(like, argument, shape, dtype, stream) for shape, dtype in made]

    def maker(self, shape: tuple[int, ...], dtype: str | None) -> Callable[[Any], Any]:
        """`empty` of that shape and dtype for work on the current stream, as a function of `like`."""
        return lambda like: self.empty(like, "", shape, dtype, None)

    def address(self, tensor: Any) -> int:
        """Address of the first element of a tensor from `empty`."""
        raise NotImplementedError

    def current_stream(self, tensor: Any) -> int | None:
        """The CUstream that the framework is using on the tensor's device; None if it does not tell."""
        del tensor
        return None


class NumPy(Framework):
    """NumPy, with the bfloat16 of ml_dtypes, whose arrays refuse DLPack."""

    exports_capsules = True

    def export(self, tensor: Any, argument: str, stream: int | None) -> Any:
        del stream
        if tensor.dtype.kind == "V" and tensor.dtype.name == "bfloat16":
            capsule = tensor.view("uint16").__dlpack__(max_version=_DLPACK_VERSION)
            _tensor.pointer(capsule, argument).dtype.code = _BFLOAT16
            return capsule
        return tensor.__dlpack__(max_version=_DLPACK_VERSION)

    def empty(self, like: Any, argument: str, shape: tuple[int, ...], dtype: str | None, stream: int | None) -> Any:
        del argument, stream
        return sys.modules["numpy"].empty(shape, dtype or like.dtype)

    def address(self, tensor: Any) -> int:
        address: int = tensor.__array_interface__["data"][0]
        return address


class Torch(Framework):
    """PyTorch. Memory comes from its caching allocator, on the stream of the call."""

    exchanged_if = ("requires_grad", False)

    def export(self, tensor: Any, argument: str, stream: int | None) -> Any:
        # to_dlpack is C and saves time, but knows neither streams nor that gradients must not be lost.
        torch = sys.modules["torch"]
        if tensor.requires_grad or (tensor.is_cuda and stream is not None):
            with torch.cuda.device_of(tensor):  # __dlpack__ refuses tensors of another device than the current one
                return super().export(tensor, argument, stream)
        return torch.utils.dlpack.to_dlpack(tensor)

    def empty(self, like: Any, argument: str, shape: tuple[int, ...], dtype: str | None, stream: int | None) -> Any:
        del argument
        torch = sys.modules["torch"]
        kind = getattr(torch, dtype) if dtype else like.dtype
        if stream is None or not like.is_cuda:
            return torch.empty(shape, dtype=kind, device=like.device)
        with torch.cuda.stream(torch.cuda.ExternalStream(stream, like.device)):
            return torch.empty(shape, dtype=kind, device=like.device)

    def maker(self, shape: tuple[int, ...], dtype: str | None) -> Callable[[Any], Any]:
        # With strides it takes less time. What the exchange table's allocator makes would take even less, but is
        # foreign memory to PyTorch: record_stream would do nothing.
        strides = _tensor.compact(shape)
        if dtype is None:
            return lambda like: like.new_empty_strided(shape, strides)
        kind = getattr(sys.modules["torch"], dtype)
        return lambda like: like.new_empty_strided(shape, strides, dtype=kind)

    def address(self, tensor: Any) -> int:
        address: int = tensor.data_ptr()
        return address

    def current_stream(self, tensor: Any) -> int:
        if not tensor.is_cuda:
            return 0
        torch = sys.modules["torch"]
        try:
            # What Triton's launcher takes: the bare handle, without the stream object around it.
            stream: int = torch._C._cuda_getCurrentRawStream(tensor.get_device())  # noqa: SLF001
        except AttributeError:
            stream = torch.cuda.current_stream(tensor.device).cuda_stream
        return stream


class CuPy(Framework):
    """CuPy. Memory comes from its pool, on the stream of the call."""

    exports_capsules = True

    def empty(self, like: Any, argument: str, shape: tuple[int, ...], dtype: str | None, stream: int | None) -> Any:
        del argument
        cupy = sys.modules["cupy"]
        with like.device:
            if stream is None:
                return cupy.empty(shape, dtype or like.dtype)
            with cupy.cuda.ExternalStream(stream, like.device.id):
                return cupy.empty(shape, dtype or like.dtype)

    def address(self, tensor: Any) -> int:
        address: int = tensor.data.ptr
        return address

    def current_stream(self, tensor: Any) -> int:
        stream: int = sys.modules["cupy"].cuda.get_current_stream(tensor.device.id).ptr
        return stream


class JAX(Framework):
    """JAX. Its arrays never change once seen, and it shows no stream.

    Inputs are waited for and only read. Outputs are fresh arrays that nobody has seen: each is made, waited for,
    written in place, and returned when the stream has finished, so to JAX they have always held the result.
    """

    mutable = False
    waits = True

    def export(self, tensor: Any, argument: str, stream: int | None) -> Any:
        del argument, stream
        return tensor.block_until_ready().__dlpack__(max_version=_DLPACK_VERSION)

    def empties(self, like: Any, argument: str, made: Sequence[Described], stream: int | None) -> Sequence[Any]:
        # A program that makes all of them takes far less time than jax.numpy.empty for one.
        del argument, stream
        described = tuple((shape, dtype or like.dtype) for shape, dtype in made)
        return [array.block_until_ready() for array in _jax_maker(described, like.device)()]

    def address(self, tensor: Any) -> int:
        address: int = tensor.unsafe_buffer_pointer()
        return address


@functools.lru_cache(maxsize=256)
def _jax_maker(described: tuple[tuple[tuple[int, ...], Any], ...], device: Any) -> Callable[[], Sequence[Any]]:
    """A compiled function that makes new arrays, each in memory of its own."""
    jax = sys.modules["jax"]
    on_device = jax.sharding.SingleDeviceSharding(device)
    made: Callable[[], Sequence[Any]] = jax.jit(
        lambda: tuple(jax.numpy.empty(shape, dtype) for shape, dtype in described), out_shardings=on_device
    )
    return made


_OTHER = Framework()
# By the root of the module and the name of the class that makes a type one of the framework's tensors.
_KNOWN: dict[tuple[str, str], Framework] = {
    ("numpy", "ndarray"): NumPy(),
    ("torch", "Tensor"): Torch(),
    ("cupy", "ndarray"): CuPy(),
    ("jaxlib", "ArrayImpl"): JAX(),
}
_BY_TYPE: dict[type, Framework] = {}


def framework_of(tensor: Any) -> Framework:
    """The framework of a tensor, or of an object that may turn out to be none."""
    kind = type(tensor)
    found = _BY_TYPE.get(kind)
    if found is None:
        keys = [(str(base.__module__).partition(".")[0], base.__qualname__) for base in kind.__mro__]
        found = next((_KNOWN[key] for key in keys if key in _KNOWN), _OTHER)
        _BY_TYPE[kind] = found
    return found


def exact_framework(kind: type) -> Framework | None:
    """The framework whose tensor type that is, not a subclass of it."""
    return _KNOWN.get((str(kind.__module__).partition(".")[0], kind.__qualname__))


def stream_number(stream: Any) -> int:
    """A given CUDA stream as an integer."""
    if hasattr(stream, "__cuda_stream__"):  # NVIDIA's stream protocol: (version, handle)
        stream = stream.__cuda_stream__()[1]
    else:
        found = (getattr(stream, attribute) for attribute in ("cuda_stream", "ptr") if hasattr(stream, attribute))
        stream = next(found, stream)  # torch, CuPy
    return integer(stream, "stream", STREAM)
