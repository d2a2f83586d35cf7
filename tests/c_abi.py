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
    "int64": (0, 64, 1),
    "uint8": (1, 8, 1),
    "int8": (0, 8, 1),
    "float8_e4m3fn": (10, 8, 1),
}
IGNORED = -12345  # a stride where the extent is 1
POINTERS = {"workspace", "buffer", "stream"}  # fields that a test gives as addresses


def constant(name: str) -> int:
    """An integer constant of the header, `name` without its prefix."""
    return ffi.integer_const(f"FLASHMLA_{name}")


def flags(**wanted: bool) -> int:
    """The flags whose value is true, by the names of the header in lower case."""
    return sum(constant(name.upper()) for name, value in wanted.items() if value)


def size_query(operation: str) -> str | None:
    """The function that says how much scratch the operation needs, if it needs any."""
    names = (f"flashmla_{operation}_workspace_size", f"flashmla_{operation}_size")
    return next((name for name in names if hasattr(lib, name)), None)


def scratch_field(operation: str) -> str | None:
    """The field of the params struct that holds the scratch; its size is the field of this name with `_size`."""
    fields = dict(ffi.typeof(f"flashmla_{operation}_params").fields)
    return next((name for name in ("workspace", "buffer") if name in fields), None)


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

    @classmethod
    def of(cls, guarded, device: tuple[int, int], *, compact: bool) -> CTensor:
        """The DLTensor of a guarded tensor; where it is not compact, with the liberties that DLPack allows."""
        byte_offset = 0 if compact else guarded.offset
        strides = [step if n > 1 else IGNORED for n, step in zip(guarded.shape, guarded.strides, strict=True)]
        return cls(
            data=guarded.adapter.address(guarded.tensor) - byte_offset,
            byte_offset=byte_offset,
            device=device,
            dtype=DTYPE_CODES[guarded.dtype.name],
            shape=list(guarded.shape),
            strides=None if compact else strides,
        )

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
    """One call: the operation, its tensors by field name, its other fields, and the struct's size and unknown tail.

    A list in place of a tensor is an array of pointers to them.
    """

    operation: str
    tensors: dict[str, CTensor | list[CTensor | None] | None]
    fields: dict[str, object] = field(default_factory=dict)
    struct_size: int | None = None  # None: sizeof
    tail: bytes = b""  # appended to the struct and, unless struct_size says otherwise, counted in it
    null_params: bool = False

    def tensor(self, name: str) -> CTensor:
        """A tensor by its name in messages: "q", "outs[1]"."""
        field, _, part = name.rstrip("]").partition("[")
        found = self.tensors[field]
        return found[int(part)] if part else found

    def every_tensor(self) -> list[CTensor]:
        return [one for found in self.tensors.values() for one in (found if isinstance(found, list) else [found])]

    @property
    def sizeof(self) -> int:
        return ffi.sizeof(f"flashmla_{self.operation}_params")

    @property
    def first_sizeof(self) -> int:
        """The size of the struct in version 1 of the binary interface, which ended with `stream`."""
        return ffi.offsetof(f"flashmla_{self.operation}_params", "stream") + ffi.sizeof("void *")

    def _build(self, keep: list):
        if self.null_params:
            return ffi.NULL
        memory = ffi.new("uint64_t[]", -(-(self.sizeof + len(self.tail)) // 8))  # uint64_t: aligned like the struct
        keep.append(memory)
        if self.tail:
            ffi.memmove(ffi.cast("char *", memory) + self.sizeof, self.tail, len(self.tail))
        params = ffi.cast(f"flashmla_{self.operation}_params *", memory)
        params.struct_size = self.sizeof + len(self.tail) if self.struct_size is None else self.struct_size
        for name, tensor in self.tensors.items():
            if isinstance(tensor, list):
                pointers = [ffi.NULL if one is None else one.build(keep) for one in tensor]
                keep.append(ffi.new("DLTensor *[]", pointers))
                setattr(params, name, keep[-1])
            elif tensor is not None:
                setattr(params, name, tensor.build(keep))
        for name, value in self.fields.items():
            setattr(params, name, ffi.cast("void *", value) if name in POINTERS else value)
        return params

    def size(self) -> tuple[int, int]:
        """(status, bytes of scratch)."""
        keep: list = []
        size = ffi.new("uint64_t *")
        status = getattr(lib, size_query(self.operation))(self._build(keep), size)
        return int(status), int(size[0])

    def give_scratch(self, address: int, size: int) -> None:
        """Memory for the operation's scratch."""
        name = scratch_field(self.operation)
        self.fields |= {name: address, f"{name}_size": size}

    def run(self, *outputs) -> int:
        """The status of the call; `outputs` are the arguments after params."""
        keep: list = []
        return int(getattr(lib, f"flashmla_{self.operation}")(self._build(keep), *outputs))

    def prepare(self) -> int:
        """The status of preparing the call instead of running it."""
        status, _ = self.prepared()
        return status

    def prepared(self) -> tuple[int, object]:
        """(status, the prepared call); whatever it was made from is gone."""
        keep: list = []
        made = ffi.new("flashmla_prepared **")
        status = int(getattr(lib, f"flashmla_{self.operation}_prepare")(self._build(keep), made))
        return status, ffi.gc(made[0], lib.flashmla_prepared_free) if status == 0 else None

    def run_prepared(self, prepared, *outputs) -> int:
        """The status of running a prepared call with the addresses of this one."""
        keep: list = []
        return int(getattr(lib, f"flashmla_{self.operation}_run")(prepared, self._build(keep), *outputs))


def last_error() -> str:
    return ffi.string(lib.flashmla_last_error()).decode()


def new_plan():
    """A zeroed flashmla_plan."""
    return ffi.new("flashmla_plan *")
