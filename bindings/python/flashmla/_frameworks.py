"""What differs between frameworks: exporting a tensor, making one like q, the current stream.

Nothing here imports a framework: whoever passes a tensor of one has imported it.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from flashmla import _tensor
from flashmla._cdef import ffi
from flashmla._library import lib
from flashmla._scalars import STREAM, integer
from flashmla.errors import check, invalid

_DLPACK_VERSION = (1, 0)
_BFLOAT16: int = ffi.integer_const("kDLBfloat")
# Streams in DLPack (array API standard, `__dlpack__`): 1 is CUDA's legacy default stream, which CUDA calls 0; -1 asks
# for no synchronisation.
_LEGACY_STREAM = 1
_NO_WAIT = -1


class Framework:
    """Any other DLPack exporter: it can be read and written, but no tensor of it can be made.

    A `stream` of None is the framework's own current one: its tensors are ready there and its memory belongs there.
    """

    mutable = True
    """Tensors may be written by others."""

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

    def empty(self, q: Any, shape: tuple[int, ...], dtype: str | None, stream: int | None) -> Any:
        """A new compact tensor on q's device for work on `stream`. `dtype` None is q's own."""
        del shape, dtype, stream
        kind = type(q).__qualname__
        raise TypeError(
            f"q is a {kind}: memory is made for torch, CuPy, JAX, NumPy; "
            "pass out, lse and workspace to dense_decode, buffer to plan_decode"
        )

    def address(self, tensor: Any) -> int:
        """Address of the first element of a tensor from `empty`."""
        raise NotImplementedError

    def current_stream(self, q: Any) -> int | None:
        """The CUstream that the framework is using on q's device; None if it does not tell."""
        del q
        return None

    def finish(self, device_id: int, stream: int) -> None:
        """Called when all work on CUDA tensors from `empty` was enqueued."""


class NumPy(Framework):
    """NumPy, with the bfloat16 of ml_dtypes, whose arrays refuse DLPack."""

    def export(self, tensor: Any, argument: str, stream: int | None) -> Any:
        del stream
        if tensor.dtype.kind == "V" and tensor.dtype.name == "bfloat16":
            capsule = tensor.view("uint16").__dlpack__(max_version=_DLPACK_VERSION)
            _tensor.from_capsule(capsule, argument).c.dtype.code = _BFLOAT16
            return capsule
        return tensor.__dlpack__(max_version=_DLPACK_VERSION)

    def empty(self, q: Any, shape: tuple[int, ...], dtype: str | None, stream: int | None) -> Any:
        del stream
        return sys.modules["numpy"].empty(shape, dtype or q.dtype)

    def address(self, tensor: Any) -> int:
        address: int = tensor.__array_interface__["data"][0]
        return address


class Torch(Framework):
    """PyTorch. Memory comes from its caching allocator, on the stream of the call."""

    def export(self, tensor: Any, argument: str, stream: int | None) -> Any:
        # to_dlpack is C and saves 3 us, but knows neither streams nor that gradients must not be lost.
        if tensor.requires_grad or (tensor.is_cuda and stream is not None):
            return super().export(tensor, argument, stream)
        return sys.modules["torch"].utils.dlpack.to_dlpack(tensor)

    def empty(self, q: Any, shape: tuple[int, ...], dtype: str | None, stream: int | None) -> Any:
        torch = sys.modules["torch"]
        on_stream: Any = contextlib.nullcontext()
        if q.is_cuda and stream is not None:
            on_stream = torch.cuda.stream(torch.cuda.ExternalStream(stream, q.device))
        with on_stream:
            return torch.empty(shape, dtype=getattr(torch, dtype) if dtype else q.dtype, device=q.device)

    def address(self, tensor: Any) -> int:
        address: int = tensor.data_ptr()
        return address

    def current_stream(self, q: Any) -> int:
        stream: int = sys.modules["torch"].cuda.current_stream(q.device).cuda_stream if q.is_cuda else 0
        return stream


class CuPy(Framework):
    """CuPy. Memory comes from its pool, on the stream of the call."""

    def empty(self, q: Any, shape: tuple[int, ...], dtype: str | None, stream: int | None) -> Any:
        cupy = sys.modules["cupy"]
        on_stream: Any = contextlib.nullcontext()
        if stream is not None:
            on_stream = cupy.cuda.ExternalStream(stream, q.device.id)
        with q.device, on_stream:
            return cupy.empty(shape, dtype or q.dtype)

    def address(self, tensor: Any) -> int:
        address: int = tensor.data.ptr
        return address

    def current_stream(self, q: Any) -> int:
        stream: int = sys.modules["cupy"].cuda.get_current_stream(q.device.id).ptr
        return stream


class JAX(Framework):
    """JAX. Its arrays never change once seen, and it shows no stream.

    Inputs are waited for and only read. Outputs are fresh arrays that nobody has seen: each is made, waited for,
    written in place, and returned when the stream has finished, so to JAX they have always held the result.
    """

    mutable = False

    def export(self, tensor: Any, argument: str, stream: int | None) -> Any:
        del argument, stream
        return tensor.block_until_ready().__dlpack__(max_version=_DLPACK_VERSION)

    def empty(self, q: Any, shape: tuple[int, ...], dtype: str | None, stream: int | None) -> Any:
        del stream
        return sys.modules["jax"].numpy.empty(shape, dtype or q.dtype, device=q.device).block_until_ready()

    def address(self, tensor: Any) -> int:
        address: int = tensor.unsafe_buffer_pointer()
        return address

    def finish(self, device_id: int, stream: int) -> None:
        check(lib, lib.flashmla_stream_synchronize(device_id, ffi.cast("void *", stream)))


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
        keys = [(base.__module__.partition(".")[0], base.__qualname__) for base in kind.__mro__]
        found = next((_KNOWN[key] for key in keys if key in _KNOWN), _OTHER)
        _BY_TYPE[kind] = found
    return found


def tensor_of(tensor: Any, argument: str, stream: int, own: Framework | None) -> _tensor.Tensor:
    """Any tensor as a DLTensor to read on `stream`, which is the current one of framework `own`, None: of nobody.

    What an exporter says against a tensor is the message.
    """
    framework = framework_of(tensor)
    try:
        return _tensor.from_capsule(framework.export(tensor, argument, None if framework is own else stream), argument)
    except BufferError as error:
        raise invalid("FLASHMLA_ERROR_DTYPE", f"{argument}: {error}") from error


def output_of(tensor: Any, argument: str, stream: int, own: Framework | None) -> _tensor.Tensor:
    """Any tensor as a DLTensor to write."""
    found = tensor_of(tensor, argument, stream, own)
    if found.read_only or not framework_of(tensor).mutable:
        raise invalid("FLASHMLA_ERROR_VALUE", f"{argument} is read-only and would be written")
    return found


def stream_number(stream: Any) -> int:
    """A given CUDA stream as an integer."""
    if hasattr(stream, "__cuda_stream__"):  # NVIDIA's stream protocol: (version, handle)
        stream = stream.__cuda_stream__()[1]
    else:
        found = (getattr(stream, attribute) for attribute in ("cuda_stream", "ptr") if hasattr(stream, attribute))
        stream = next(found, stream)  # torch, CuPy
    return integer(stream, "stream", STREAM)
