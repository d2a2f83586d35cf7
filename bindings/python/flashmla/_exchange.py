"""The fast path: a call on tensors of one framework is one C function.

`flashmla_exchange_call` of the library has the form of a Python function (METH_FASTCALL). For every set of checked
scalars and every tensor type it becomes a builtin, bound to a description of the call, that takes the tensors, reads
them, runs the operation and returns its status. Crossing the border that way takes 0.05 us; a call with ten arguments
through ctypes takes 1.2 us, and cffi two or three crossings a tensor. Tensors are read through DLPack's exchange table
where their type offers it; where it does not, they are exported as capsules first.

Where something is not as it usually is (a subclass, a tensor that requires a gradient, a table that raises, a call that
the library refuses), nothing was done. The caller then takes the long way, whose sentences say what is wrong.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from flashmla._cdef import ffi
from flashmla._framework import Framework
from flashmla._frameworks import exact_framework
from flashmla._library import function, lib
from flashmla._scalars import forget

UNUSUAL: int = ffi.integer_const("FLASHMLA_EXCHANGE_UNUSUAL")
TENSOR: int = ffi.integer_const("FLASHMLA_EXCHANGE_TENSOR")
LIST: int = ffi.integer_const("FLASHMLA_EXCHANGE_LIST")
SCRATCH: int = ffi.integer_const("FLASHMLA_EXCHANGE_SCRATCH")
ADDRESS: int = ffi.integer_const("FLASHMLA_EXCHANGE_ADDRESS")
RESULT: int = ffi.integer_const("FLASHMLA_EXCHANGE_RESULT")
OUTPUT: int = ffi.integer_const("FLASHMLA_EXCHANGE_OUTPUT")

_METH_FASTCALL = 0x80
_TABLE_MAJOR = 1
# Functions of Python's C API in the places of flashmla_host.
_HOST = {
    "address": "PyLong_AsVoidPtr",
    "integer": "PyLong_FromLongLong",
    "capsule": "PyCapsule_GetPointer",
    "type": "PyObject_Type",
    "attribute": "PyObject_GetAttr",
    "call": "PyObject_Vectorcall",
    "release": "Py_DecRef",
    "unlock": "PyEval_SaveThread",
    "lock": "PyEval_RestoreThread",
}


class _MethodDef(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


class _Table(ctypes.Structure):
    """The beginning of DLPackExchangeAPI, up to the one function that may be missing."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("older", ctypes.c_void_p),
        ("functions", ctypes.c_void_p * 3),
        ("export_tensor", ctypes.c_void_p),
    )


_builtin = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)(
    ("PyCFunction_NewEx", ctypes.pythonapi)
)
_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _start() -> int | None:
    """Tells the library of Python's functions. Address of the definition that builtins are made of.

    None where that cannot be: another Python than CPython, a library that lacks the entry or has another one.
    """
    if platform.python_implementation() != "CPython" or function("flashmla_exchange_call") is None:
        return None
    host = ffi.new("flashmla_host *")
    for name, field in ffi.typeof("flashmla_host").fields:
        if name in _HOST:
            address = ctypes.cast(getattr(ctypes.pythonapi, _HOST[name]), ctypes.c_void_p).value
            setattr(host, name, ffi.cast(field.type, address))
    host.nothing = ffi.cast("void *", id(None))
    host.struct_size = ffi.sizeof("flashmla_host")
    if lib.flashmla_exchange_host(host) != 0:
        return None
    entry = int(ffi.cast("uintptr_t", lib.flashmla_exchange_call))
    definition = _MethodDef(b"flashmla_exchange_call", entry, _METH_FASTCALL, None)
    # Builtins look at it when they die, which may be after this module.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(definition))
    return ctypes.addressof(definition)


_definition = _start()
_taken = True


@contextlib.contextmanager
def long_way() -> Iterator[None]:
    """Within it no fast call is made anew: for tests of the other path. Not for several threads at once."""
    global _taken  # noqa: PLW0603 - a switch of the process
    forget()
    _taken = False
    try:
        yield
    finally:
        _taken = True
        forget()


def _table_of(kind: type) -> int | None:
    """Address of the exchange table of a tensor type; None if it has none that the library can use."""
    capsule = getattr(kind, "__dlpack_c_exchange_api__", None)
    address: int | None = None if capsule is None else _capsule_pointer(capsule, b"dlpack_exchange_api")
    while address:
        table = _Table.from_address(address)
        if table.major == _TABLE_MAJOR:
            return address if table.export_tensor else None
        address = table.older
    return None


class Argument(NamedTuple):
    """What an object of a call is, the field that it fills, and of a LIST how many tensors it has."""

    kind: int
    field: str
    tensors: int = 0


class Form(NamedTuple):
    """What the fast calls of an operation have in common; functions are cffi's, of the library."""

    params: Any
    """cffi's type of the params struct."""
    arguments: tuple[Argument, ...]
    size: Any
    """The size query of scratch; None where no scratch is ever made."""
    run: Any
    into: bool
    """`run` has a second parameter, which the RESULT argument fills."""
    keep: bool
    """Scratch that is made is what the call returns."""


class Fast:
    """The fast call on tensors of one type, and how outputs are made for it."""

    __slots__ = ("_kept", "call", "framework", "makers")

    def __init__(self, form: Form, kind: type, framework: Framework, table: int, first: Any, **more: Any) -> None:
        """`table`: 0 for capsules; `first`: what stands in the first tensor's place if that is None; `more`: further
        fields of the description, of which `params` holds the scalars, and what holds for arguments that are None.
        """
        if not table:
            form = form._replace(arguments=(*form.arguments, Argument(ADDRESS, "stream")))
        arguments = ffi.new("flashmla_exchange_argument[]", len(form.arguments))
        fields = {
            "struct_size": ffi.sizeof("flashmla_exchange"),
            "table": table,
            "type": id(kind),
            "params_size": ffi.sizeof(form.params),
            "num_objects": sum(argument.tensors if argument.kind == LIST else 1 for argument in form.arguments),
            "arguments": arguments,
            "num_arguments": len(arguments),
            "stream_offset": ffi.offsetof(form.params, "stream"),
            "keep_scratch": form.keep,
            "run_into" if form.into else "run": form.run,
        }
        if form.size is not None:
            fields["size"] = form.size
        conditions = (framework.conditions() if table else None) or ()
        rows = ffi.new("flashmla_exchange_condition[]", len(conditions))
        for row, condition in zip(rows, conditions, strict=True):
            row.of_tensors = condition.of_tensors
            for name in ("function", "attribute", "object", "unless", "value"):
                found = getattr(condition, name)
                if found is not None or name == "value":
                    setattr(row, name, ffi.cast("void *", id(found)))
        fields["conditions"], fields["num_conditions"] = rows, len(rows)
        for row, argument in zip(arguments, form.arguments, strict=True):
            row.kind, row.count = argument.kind, argument.tensors
            if argument.kind != RESULT:
                row.offset = ffi.offsetof(form.params, argument.field)
            if argument.kind == SCRATCH:
                fields["scratch_offset"] = row.offset
        how = ffi.new("flashmla_exchange *")
        types = dict(ffi.typeof("flashmla_exchange").fields)
        for name, value in (fields | more).items():
            is_pointer = types[name].type.kind in {"pointer", "function"}
            setattr(how, name, ffi.cast(types[name].type, value) if is_pointer else value)
        self._kept = (how, kind, framework, fields, more, conditions)
        self.framework = framework
        builtin = _builtin(_definition, int(ffi.cast("uintptr_t", how)), None)
        self.call: Callable[..., Any] = builtin if table else _on_capsules(builtin, kind, framework, form, first)
        """Takes the objects of the form's arguments. Returns a status, UNUSUAL or the scratch that was made."""
        self.makers: dict[tuple[int, ...], tuple[Callable[[Any], Any], ...]] = {}
        """By shape of the first tensor, for shapes that the library has accepted: what makes each output."""


def _on_capsules(
    builtin: Callable[..., Any], kind: type, framework: Framework, form: Form, model: Any
) -> Callable[..., Any]:
    """A fast call that exports the tensors, and makes the scratch that is missing."""
    scratch = [i for i, argument in enumerate(form.arguments) if argument.kind == SCRATCH]
    export, current_stream, empty = framework.export, framework.current_stream, framework.empty

    def other(thing: Any) -> Any:
        raise TypeError(type(thing))

    def call(*objects: Any) -> Any:
        first = model if objects[0] is None else objects[0]
        # An integer is an address; as a tensor C refuses it.
        given = [
            export(x, "", None) if type(x) is kind else x if x is None or type(x) is int else other(x) for x in objects
        ]
        status = builtin(*given, current_stream(first))
        if status >= UNUSUAL:
            return status
        made = empty(first, "", (UNUSUAL - status,), "uint8", None)
        given[scratch[0]] = export(made, "", None)
        status = builtin(*given, current_stream(first))
        return made if form.keep and status == 0 else status

    return call


def fast_call(form: Form, kind: type, first: Any = None, **more: Any) -> Fast | None:
    """The fast call on tensors of exactly that type, None if there is none."""
    framework = exact_framework(kind)
    if not _taken or _definition is None or framework is None:
        return None
    table = None if framework.conditions() is None else _table_of(kind)
    return Fast(form, kind, framework, table or 0, first, **more) if table or framework.exports_capsules else None


class FastCalls(dict[type, "Fast | None"]):
    """Fast calls with the same scalars, by the type of the tensors."""

    def __init__(self, form: Form, params: Any) -> None:
        super().__init__()
        self._form = form
        self._params = params

    def __missing__(self, kind: type) -> Fast | None:
        """Made once for each type."""
        fast = self[kind] = fast_call(self._form, kind, params=self._params)
        return fast
