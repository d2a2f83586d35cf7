"""`prepare`: a call that is checked once and then made again and again, with other tensors of the same kind."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from flashmla._call import Call
from flashmla._cdef import ffi
from flashmla._dynamo import eager
from flashmla._exchange import UNUSUAL, Fast, fast_call
from flashmla._library import function, lib
from flashmla._operation import LIST, Operation, Ready, raise_if_enqueued
from flashmla._options import Options, wanted
from flashmla._plan import check_plan, no_copy
from flashmla._scalars import flag
from flashmla._tensor import difference
from flashmla._words import a
from flashmla.errors import check, invalid

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
OptionsOf = Callable[[dict[str, Any]], Options]
ResultOf = Callable[[Ready, dict[str, Any]], Any]


class _Preparable(NamedTuple):
    """What `prepare` has to know of an operation's public function."""

    operation: Operation
    options: OptionsOf
    result: ResultOf | None


_PREPARABLE: dict[Any, _Preparable] = {}


def by_name(options: Callable[..., Options]) -> OptionsOf:
    """`options` as a function of all arguments of a call, by name."""
    names = tuple(inspect.signature(options).parameters)
    return lambda arguments: options(*(arguments[name] for name in names))


def preparable(
    operation: Operation, options: OptionsOf | None = None, result: ResultOf | None = None
) -> Callable[[FunctionT], FunctionT]:
    """Marks the public function of an operation.

    options  of a call's arguments; None: the operation's, from the arguments of these names
    result   makes what its calls return; None: that is the output, or a tuple of the outputs
    """
    options_of = by_name(operation.options) if options is None else options

    def mark(public: FunctionT) -> FunctionT:
        _PREPARABLE[public] = _Preparable(operation, options_of, result)
        return public

    return mark


class Prepared:
    """A call that `prepare` has checked. Calling it makes the call.

    `prepared()` uses the tensors that it was prepared with; `prepared(q=q, out=out)` others in the places named, for
    that time only. They must have shape, strides, dtype and device of those in their places, which is checked. It
    returns what the operation returns; outputs that were made by `prepare` are the same every time.

    GPU work is enqueued on the current stream of the first tensor's framework, or on the `stream` given to `prepare`,
    and not waited for. Any thread may call it. But it has one workspace and one set of outputs: calls that may overlap
    need their own `out`, `lse` and `workspace`. It can be captured in a CUDA graph without a call before. The tensors
    that it was prepared with live as long as it does; their memory must stay where it is. It cannot be copied.

    Raises what the operation raises, and TypeError for a name that it has no place for.

    >>> decode = flashmla.prepare(flashmla.dense_decode, q, kv_cache, block_table, cache_seqlens)
    >>> decode
    <flashmla.Prepared dense_decode>
    >>> out, lse = decode(q=q + q)
    """

    __slots__ = (
        *("_arguments", "_blank", "_call", "_fast", "_handle", "_operation", "_own", "_pick", "_positions", "_ready"),
        "_result",
    )

    def __init__(self, entry: _Preparable, arguments: dict[str, Any]) -> None:
        operation = self._operation = entry.operation
        options = entry.options(arguments)
        names = (*operation.inputs, *operation.optional)
        plan = operation.plan and arguments[operation.plan]
        if plan is not None:
            check_plan(plan)
        given = [arguments[name] for name in operation.outputs]
        returned = operation.outputs
        if given and not flag(arguments.get("return_lse", True), "return_lse"):
            given, returned = [*wanted(given[0], given[1], return_lse=False)], returned[:1]
        ready = self._ready = operation.ready(
            options,
            [arguments[name] for name in names],
            given,
            scratch=operation.scratch and arguments[operation.scratch],
            plan=plan and plan.c,
            stream=arguments["stream"],
        )
        if not ready.call.framework.mutable:
            raise TypeError(
                f"{names[0]} is {a(ready.call.first)}, which never changes: a prepared call writes its outputs again"
            )
        self._arguments = arguments  # kept alive, the plan too
        self._own = dict(zip(operation.outputs, ready.outputs, strict=False))
        # Of one output that output, of several a tuple.
        self._pick = operator.itemgetter(*returned) if returned else dict
        result: Any = self._pick(self._own) if entry.result is None else entry.result(ready, arguments)
        self._result = result
        self._handle = _handle(operation, ready)

        # Of a fast call: which objects are which tensor, and the objects that leave all as it was prepared.
        self._positions: dict[str, Any] = {}
        self._blank: list[Any] = []
        for name in (*names, *operation.outputs, operation.scratch, operation.plan):
            if name is not None:
                first = len(self._blank)
                listed = options.listed if name in operation.lists else 0
                self._positions[name] = slice(first, first + listed) if listed else first
                self._blank += [None] * (listed or 1)
        if operation.makes_plan:
            self._blank.append(result.address)
            del self._positions[str(operation.scratch)]  # the plan names its buffer
        self._fast = self._fast_call(options) if arguments["stream"] is None else None
        self._call = None if self._fast is None else self._fast.call

    def _fast_call(self, options: Options) -> Fast | None:
        operation, call = self._operation, self._ready.call
        form = operation.form(options.listed or 1)._replace(size=None, keep=False)
        more: dict[str, Any] = {"params": call.params, "model": call.model}
        if self._handle is not None:
            into = "_into" if operation.makes_plan else ""
            run = getattr(lib, f"flashmla_{operation.name}_run")
            more |= {f"run{into}": ffi.NULL, f"run_prepared{into}": run, "prepared": self._handle}
        return fast_call(form, type(call.first), call.first, **more)

    def __repr__(self) -> str:
        return f"<flashmla.Prepared {self._operation.name}>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise no_copy("Prepared", "flashmla.prepare")

    @eager
    def __call__(self, **tensors: Any) -> Any:
        """Makes the call. `tensors`: those that are others this time, by the operation's names for them."""
        if self._call is not None:
            objects = self._blank
            try:
                if tensors:
                    objects, positions = objects.copy(), self._positions
                    for name, tensor in tensors.items():
                        position = positions[name]
                        # None would mean the tensor that the call was prepared with: anything wrong takes its place.
                        if type(position) is slice:
                            objects[position] = [self if x is None else x for x in _listed(tensor, name, position)]
                        else:
                            objects[position] = self if tensor is None else tensor
                    if "plan" in tensors:
                        check_plan(tensors["plan"])  # an address of anything else would be followed
                        objects[positions["plan"]] = tensors["plan"].address
                status = self._call(*objects)
            except Exception:  # noqa: BLE001 - a wrong name, or what the tensors' framework said: said the long way
                status = UNUSUAL
            if status != 0:
                raise_if_enqueued(status)
                self._the_long_way(tensors)
        else:
            self._the_long_way(tensors)
        return self._pick(self._own | tensors) if tensors and self._own else self._result

    def _the_long_way(self, tensors: dict[str, Any]) -> None:
        operation = self._operation
        params = ffi.new(operation.pointer, self._ready.call.params[0])
        call = self._ready.call.again(params)
        for name, tensor in tensors.items():
            if name not in self._positions:
                raise TypeError(f"{name} is none of {', '.join(self._positions)}, which can be others in this call")
            if name == operation.plan:
                check_plan(tensor)
                params.plan = tensor.c
            elif name == operation.scratch:
                self._replace_scratch(call, tensor)
            elif isinstance(self._positions[name], slice):
                self._replace_list(call, name, tensor)
            else:
                read = call.write if name in operation.outputs else call.read
                setattr(params, name, _alike(read(tensor, name), getattr(params, name), name))
        run = operation.run if self._handle is None else getattr(lib, f"flashmla_{operation.name}_run")
        arguments = [params] if self._handle is None else [self._handle, params]
        if operation.makes_plan:
            arguments.append(self._result.c)
        call.run(run, *arguments)

    def _replace_scratch(self, call: Call, tensor: Any) -> None:
        name = str(self._operation.scratch)
        _, address, size = call.scratch(tensor, name)
        setattr(call.params, name, address)
        setattr(call.params, f"{name}_size", size)

    def _replace_list(self, call: Call, name: str, tensors: Any) -> None:
        given = _listed(tensors, name, self._positions[name])
        was = getattr(call.params, name)
        found = [_alike(call.read(x, f"{name}[{i}]"), was[i], f"{name}[{i}]") for i, x in enumerate(given)]
        setattr(call.params, name, call.keep(ffi.new(LIST, found)))


def _listed(tensors: Any, name: str, position: slice) -> tuple[Any, ...]:
    """The tensors of a list, as many as were prepared. A copy: the list may change while they are exported."""
    found = tuple(tensors) if isinstance(tensors, (list, tuple)) else ()
    count = position.stop - position.start
    if len(found) != count:
        raise TypeError(f"{name} must be a list or tuple of {count} tensors, as when prepared")
    return found


def _alike(tensor: Any, was: Any, argument: str) -> Any:
    """The `DLTensor *`, if it can take the place of the other one, which may be NULL."""
    if not was:
        raise invalid("FLASHMLA_ERROR_NULL_POINTER", f"{argument} is given, was None when the call was prepared")
    found = difference(tensor, was)
    if found is not None:
        status, words = found
        raise invalid(status, f"{argument}: {words} when the call was prepared")
    return tensor


def _handle(operation: Operation, ready: Ready) -> Any:
    """The library's own part, released with the last reference; None for a library that has none."""
    make = function(f"flashmla_{operation.name}_prepare")
    if make is None:
        return None
    made = ffi.new("flashmla_prepared **")
    check(lib, make(ready.call.params, made))
    return ffi.gc(made[0], lib.flashmla_prepared_free)


@eager
def prepare(operation: Callable[..., Any], *arguments: Any, **options: Any) -> Prepared:
    """Checks a call of `operation` once, to be made many times: for loops in which a microsecond counts.

    operation        the function of an operation, such as `flashmla.dense_decode`
    arguments, options
                     those of the call, with its errors. Outputs and scratch that are not given are made here, once.
                     Scalars, shapes, strides and dtypes are then fixed

    Nothing is run yet; what a GPU needs for it is loaded. What is returned is called with the tensors that change, by
    name: see `Prepared`. Raises what the call would, and TypeError for JAX arrays, which never change.

    >>> plan = flashmla.plan_decode(q, kv_cache, block_table, cache_seqlens)
    >>> decode = flashmla.prepare(flashmla.dense_decode, q, kv_cache, block_table, cache_seqlens, plan=plan)
    >>> for q_of_layer, kv_cache_of_layer in [(q, kv_cache), (q + q, kv_cache + kv_cache)]:
    ...     out, lse = decode(q=q_of_layer, kv_cache=kv_cache_of_layer)
    """
    entry = next((entry for public, entry in _PREPARABLE.items() if public is operation), None)
    if entry is None:
        names = ", ".join(sorted(public.__name__ for public in _PREPARABLE))
        raise TypeError(f"operation is {operation!r}: one of {names} is needed")
    bound = inspect.signature(operation).bind(*arguments, **options)
    bound.apply_defaults()
    return Prepared(entry, bound.arguments)
