"""The C entry points with every field under the test's control: what Python cannot express is said here."""

from __future__ import annotations

from dataclasses import dataclass, field

from flashmla._cdef import ffi
from flashmla._library import lib

DTYPE_CODES = {  # DLPack's code, bits, lanes
    "bfloat16": (4, 16, 1),
    "float16": (2, 16, 1),
    "float32": (2, 32, 1),
    "int32": (0, 32, 1),
}
PARAMS = {"dense_decode": "flashmla_dense_decode_params", "plan_decode": "flashmla_plan_decode_params"}
SIZE_QUERY = {"dense_decode": "flashmla_dense_decode_workspace_size", "plan_decode": "flashmla_plan_decode_size"}


def constant(name: str) -> int:
    """An integer constant of the header, `name` without its prefix."""
    return ffi.integer_const(f"FLASHMLA_{name}")


@dataclass
class CTensor:
    """A DLTensor as plain values."""

    data: int
    device: tuple[int, int]
    dtype: tuple[int, int, int]
    shape: list[int] | None
    strides: list[int] | None  # None: a NULL pointer, compact row-major
    byte_offset: int = 0
    ndim: int | None = None  # None: the length of shape

    def build(self, keep: list):
        """The C struct; `keep` receives what has to outlive it."""
        tensor = ffi.new("DLTensor *")
        tensor.data = ffi.cast("void *", self.data)
        tensor.device.device_type, tensor.device.device_id = self.device
        tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes = self.dtype
        tensor.ndim = len(self.shape or []) if self.ndim is None else self.ndim
        for name, values in (("shape", self.shape), ("strides", self.strides)):
            if values is not None:
                array = ffi.new("int64_t[]", values)
                setattr(tensor, name, array)
                keep.append(array)
        tensor.byte_offset = self.byte_offset
        keep.append(tensor)
        return tensor


@dataclass
class CCall:
    """One call: the operation, its tensors by field name, its other fields, and the struct's size and unknown tail."""

    operation: str
    tensors: dict[str, CTensor | None]
    fields: dict[str, object] = field(default_factory=dict)
    struct_size: int | None = None  # None: sizeof
    tail: bytes = b""  # appended to the struct and, unless struct_size says otherwise, counted in it
    null_params: bool = False

    @property
    def sizeof(self) -> int:
        return ffi.sizeof(PARAMS[self.operation])

    def _build(self, keep: list):
        if self.null_params:
            return ffi.NULL
        memory = ffi.new("uint64_t[]", -(-(self.sizeof + len(self.tail)) // 8))  # uint64_t: aligned like the struct
        keep.append(memory)
        if self.tail:
            ffi.memmove(ffi.cast("char *", memory) + self.sizeof, self.tail, len(self.tail))
        params = ffi.cast(PARAMS[self.operation] + " *", memory)
        params.struct_size = self.sizeof + len(self.tail) if self.struct_size is None else self.struct_size
        for name, tensor in self.tensors.items():
            if tensor is not None:
                setattr(params, name, tensor.build(keep))
        for name, value in self.fields.items():
            pointer = name in {"workspace", "buffer", "stream"}
            setattr(params, name, ffi.cast("void *", value) if pointer else value)
        return params

    def size(self) -> tuple[int, int]:
        """(status, bytes of scratch)."""
        keep: list = []
        size = ffi.new("uint64_t *")
        status = getattr(lib, SIZE_QUERY[self.operation])(self._build(keep), size)
        return int(status), int(size[0])

    def run(self, *outputs) -> int:
        """The status of the call; `outputs` are the arguments after params."""
        keep: list = []
        return int(getattr(lib, f"flashmla_{self.operation}")(self._build(keep), *outputs))


def last_error() -> str:
    return ffi.string(lib.flashmla_last_error()).decode()


def new_plan():
    """A zeroed flashmla_plan."""
    return ffi.new("flashmla_plan *")
