"""What an operation is to the binding: a table of its arguments, from which both ways of calling it follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flashmla import _exchange
from flashmla._call import Call
from flashmla._cdef import ffi
from flashmla._exchange import UNUSUAL, Argument, Form
from flashmla._framework import Described
from flashmla._library import lib
from flashmla._on_error import recovered
from flashmla._options import MADE, Options, check_out_dtype, fresh
from flashmla._scalars import remembered
from flashmla._tensor import shape
from flashmla.errors import DeviceError, FlashMLAError, UnsupportedError, check, invalid

LIST = ffi.typeof("const DLTensor *[]")
PYTHON_NAMES: int = ffi.integer_const("FLASHMLA_PYTHON_NAMES")
_DRIVER_ERRORS = 300
_TENSOR_VALUE: int = ffi.integer_const("FLASHMLA_ERROR_TENSOR_VALUE")


class Ready(NamedTuple):
    """A call with all that it needs, but not made yet."""

    call: Call
    outputs: tuple[Any, ...]
    scratch: Any
    """What keeps the scratch alive; None where there is none."""
    size: int
    """Bytes of scratch that the library asked for; 0 where it was not asked."""
    described: tuple[Described, ...]
    """Of the outputs, as they are made."""

    def run(self, operation: Any, *more: Any) -> None:
        """Makes the call."""
        self.call.run(operation, self.call.params, *more)


class Operation:
    """An operation of flashmla.h: its functions, and which arguments fill which fields of its params struct.

    name       of its function and its params struct
    inputs     tensors; lists of tensors where the field is one
    optional   further tensors, or None
    outputs    written; where None is given they are made as `described` tells, from the shape of the first input;
               without it they must be given
    scratch    a buffer, and the function that tells its size
    plan       a field that takes the address of a flashmla_plan
    makes_plan its function has a second parameter for one; its scratch is the plan's memory
    options    makes its Options of the scalars of a call; needed by `options_of`
    """

    def __init__(
        self,
        name: str,
        inputs: tuple[str, ...],
        *,
        optional: tuple[str, ...] = (),
        outputs: tuple[str, ...] = (),
        described: Callable[[tuple[int, ...], Options], tuple[Described, ...]] | None = None,
        scratch: tuple[str, str] | None = None,
        plan: str | None = None,
        makes_plan: bool = False,
        options: Callable[..., Options] | None = None,
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.optional = optional
        self.outputs = outputs
        self.described = described
        self.plan = plan
        self.makes_plan = makes_plan
        self.options: Any = options
        self._remembered: Any = remembered(options) if options else None
        self.scratch = scratch[0] if scratch else None
        self.size: Any = getattr(lib, scratch[1]) if scratch else None
        self.run = getattr(lib, f"flashmla_{name}")
        self.struct = ffi.typeof(f"flashmla_{name}_params")
        self.pointer = ffi.typeof(f"flashmla_{name}_params *")
        fields = dict(self.struct.fields)
        self.lists = frozenset(name for name in inputs if fields[name].type.item.kind == "pointer")

    def new_params(self) -> Any:
        """A params struct with its size and nothing else: errors name arguments as they are called here."""
        params = ffi.new(self.pointer)
        params.struct_size = ffi.sizeof(self.struct)
        params.flags = PYTHON_NAMES
        return params

    def form(self, count: int) -> Form:
        """What its fast calls have in common; `count`: tensors of each list."""
        objects = [
            Argument(_exchange.LIST, name, count) if name in self.lists else Argument(_exchange.TENSOR, name)
            for name in (*self.inputs, *self.optional)
        ]
        objects += [Argument(_exchange.OUTPUT, name) for name in self.outputs]
        if self.scratch is not None:
            objects.append(Argument(_exchange.SCRATCH, self.scratch))
        if self.plan is not None:
            objects.append(Argument(_exchange.ADDRESS, self.plan))
        if self.makes_plan:
            objects.append(Argument(_exchange.RESULT, ""))
        return Form(self.struct, tuple(objects), self.size, self.run, into=self.makes_plan, keep=self.makes_plan)

    def inputs_only(self, options: Options, inputs: Sequence[Any], stream: Any) -> Call:
        """A call with its inputs, in the order of the table; a list's value may be a single tensor."""
        first, argument = inputs[0], self.inputs[0]
        if argument in self.lists and isinstance(first, (list, tuple)):
            first, argument = first[0], f"{argument}[0]"
        call = Call(ffi.new(self.pointer, options.params[0]), first, argument, stream)
        params = call.params
        for i, (name, tensor) in enumerate(zip((*self.inputs, *self.optional), inputs, strict=True)):
            if name in self.lists:
                single = not isinstance(tensor, (list, tuple))
                parts = {name: tensor} if single else {f"{name}[{k}]": part for k, part in enumerate(tensor)}
                if len(parts) != (options.listed or 1):  # C would look behind the end
                    words = f"{name} has {len(parts)} tensors, had {options.listed} when the call began"
                    raise invalid("FLASHMLA_ERROR_SHAPE", words)
                read = [call.model if part is first else call.read(part, full) for full, part in parts.items()]
                setattr(params, name, call.keep(ffi.new(LIST, read)))
            elif i == 0:
                setattr(params, name, call.model)
            elif tensor is not None or name in self.inputs:
                setattr(params, name, call.read(tensor, name))
        return call

    def ready(
        self,
        options: Options,
        inputs: Sequence[Any],
        outputs: Sequence[Any] = (),
        *,
        scratch: Any = None,
        plan: Any = None,
        stream: Any = None,
    ) -> Ready:
        """A call the long way, up to its making. The last outputs may be left out. `plan`: a `flashmla_plan *`."""
        call = self.inputs_only(options, inputs, stream)
        params = call.params
        if plan is not None:
            setattr(params, str(self.plan), plan)
        described = self.described(shape(call.model), options) if self.described else ()
        found = list(outputs)
        missing = [i for i, output in enumerate(outputs[: len(described)]) if output is None]
        for i, (name, output) in enumerate(zip(self.outputs, outputs, strict=False)):
            if output is not None or i in missing:
                setattr(params, name, call.describe(*described[i]) if output is None else call.write(output, name))
        size = 0
        if self.size is not None and (missing or scratch is None):
            # The size query refuses wrong ranks, extents, dtypes and devices before outputs of such shapes are made.
            # Strides, addresses and scalars are looked at by the call itself.
            size = call.query(self.size)
        wanted = [described[i] for i in missing]
        if scratch is None and size:
            wanted.append(((size,), "uint8"))
        made = call.make(wanted) if wanted else []
        if MADE.on and missing:
            MADE.calls += 1
        for i, (tensor, address) in zip(missing, made, strict=False):
            found[i] = tensor
            getattr(params, self.outputs[i]).data = address
        kept = None
        if scratch is not None:
            kept, *memory = call.scratch(scratch, str(self.scratch))
            self._set_scratch(params, *memory)
        elif size:
            kept, address = made[-1]
            self._set_scratch(params, address, size)
        return Ready(call, tuple(found), kept, size, described)

    def options_of(self, scalars: tuple[Any, ...]) -> Options:
        """The Options of the scalars of a call, which are remembered."""
        found: Options | None = None
        try:
            found = self._remembered(*scalars)
        except TypeError:
            found = None
        return self.options(*scalars) if found is None else found

    def call(
        self,
        scalars: tuple[Any, ...],
        inputs: Sequence[Any],
        outputs: tuple[Any, ...],
        *,
        stream: Any,
        objects: Sequence[Any],
        scratch: Any = None,
        plan: Any = None,
    ) -> tuple[Any, ...]:
        """Makes a call of an operation, and returns its outputs, whose first is `out`.

        `objects`: the tensors of inputs and lists one by one. `plan`: a Plan.
        """
        options = self.options_of(scalars)
        if options.out_dtype is not None:
            check_out_dtype(outputs[0], options.out_dtype)
        first, failed = objects[0], None
        fast = options.fast[type(first)] if stream is None else None
        if fast is not None:
            found = fresh(fast, first, outputs)
            if found is not None:
                more = (None,) * (len(self.outputs) - len(found))
                last: tuple[Any, ...] = () if self.scratch is None else (scratch,)
                if self.plan is not None:
                    last = (scratch, None if plan is None else plan.address)
                try:
                    status = fast.call(*objects, *found, *more, *last)
                except Exception:  # noqa: BLE001 - whatever the tensors' framework said: the long way says it better
                    status = UNUSUAL
                if status == 0:
                    return found
                failed = enqueued(status)
        return self.the_long_way(options, inputs, outputs, scratch=scratch, plan=plan, stream=stream, failed=failed)

    def the_long_way(
        self,
        options: Options,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        *,
        scratch: Any = None,
        plan: Any = None,
        stream: Any = None,
        failed: FlashMLAError | None = None,
    ) -> tuple[Any, ...]:
        """Makes a call, and returns its outputs. `failed`: how the fast way failed for good."""
        try:
            if failed is not None:
                raise failed
            ready = self.ready(options, inputs, outputs, scratch=scratch, plan=plan and plan.c, stream=stream)
            ready.run(self.run)
        except (UnsupportedError, DeviceError) as error:
            return recovered(error, self, options, inputs, outputs, stream)
        first = inputs[0]
        options.succeeded(type(first[0] if isinstance(first, (list, tuple)) else first), ready)
        return ready.outputs

    def scratch_size(self, options: Options, inputs: Sequence[Any], plan: Any = None) -> int:
        """Bytes of scratch that a call needs; outputs are taken to be as they are made."""
        call = self.inputs_only(options, inputs, None)
        if plan is not None:
            setattr(call.params, str(self.plan), plan)
        if self.described is not None:
            for name, facts in zip(self.outputs, self.described(shape(call.model), options), strict=True):
                setattr(call.params, name, call.describe(*facts))
        return call.query(self.size)

    def _set_scratch(self, params: Any, address: Any, size: int) -> None:
        setattr(params, str(self.scratch), address)
        setattr(params, f"{self.scratch}_size", size)


def raise_if_enqueued(status: int) -> None:
    """Raises for the status of a fast call that may have enqueued something, or that tells what an earlier call read,
    which is told once. Any other is made again the long way.
    """
    if status >= _DRIVER_ERRORS or status == _TENSOR_VALUE:
        check(lib, status)


def enqueued(status: int) -> FlashMLAError | None:
    """What `raise_if_enqueued` raises, for `Operation.the_long_way`."""
    try:
        raise_if_enqueued(status)
    except FlashMLAError as error:
        return error
    return None
