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
SIZE_QUERY = {"dense_decode": "flashmla_dense_decode_workspace_size", "plan_decode": "flashmla_plan_decode_size"}
POINTERS = {"workspace", "buffer", "stream"}  # fields that a test gives as addresses


def constant(name: str) -> int:
    """An integer constant of the header, `name` without its prefix."""
    return ffi.integer_const(f"FLASHMLA_{name}")


def flags(**wanted: bool) -> int:
    """The flags whose value is true, by the names of the header in lower case."""
    return sum(constant(name.upper()) for name, value in wanted.items() if value)


def plan_fields(case) -> dict[str, object]:
    """What a case says of plan_decode, but for tensors and buffer."""
    fields: dict[str, object] = {"flags": flags(causal=case.causal, batch_invariant=case.batch_invariant)}
    fields["num_splits"] = case.num_splits
    if case.cu_seqlens_q is not None:
        fields["max_seqlen_q"] = case.s_q
    return fields


def decode_fields(case) -> dict[str, object]:
    """What a case says of dense_decode, but for tensors, plan and workspace."""
    fields: dict[str, object] = {
        "flags": flags(
            causal=case.causal,
            default_scale=case.softmax_scale is None,
            lse_base2=case.lse_base2,
            empty_lse_minus=case.empty_lse_minus,
            batch_invariant=case.batch_invariant and case.plan == "none",  # with a plan, the plan decides
        ),
        "num_threads": case.num_threads,
    }
    if case.softmax_scale is not None:
        fields["softmax_scale"] = case.softmax_scale
    if case.cu_seqlens_q is not None:
        fields["max_seqlen_q"] = case.s_q
    if case.shard is not None:
        fields |= {f"cp_{name}": value for name, value in case.shard._asdict().items()}
    return fields


def merge_fields(case) -> dict[str, object]:
    """What a merging.MergeCase says of merge_states, but for tensors."""
    return {
        "flags": flags(lse_base2=case.lse_base2, empty_lse_minus=case.empty_lse_minus),
        "num_states": 0 if case.stacked else case.num_states,
        "num_threads": case.num_threads,
    }


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
