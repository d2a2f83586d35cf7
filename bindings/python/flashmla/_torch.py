"""PyTorch tensors: which have memory that holds their values, and how they are exported and made."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from flashmla import _tensor
from flashmla._dynamo import keep_dynamo_out
from flashmla._framework import Condition, Framework
from flashmla._words import a
from flashmla.errors import UnsupportedError

_TRACED = "flashmla cannot be traced; call it outside of what is traced, or in a torch.library.custom_op of your own"
_PLAIN = "a plain torch.Tensor is needed"


def _asked(owner: Any, name: str, *arguments: Any) -> Any:
    """What a function of PyTorch answers; None where this version of PyTorch lacks it."""
    function = getattr(owner, name, None)
    return None if function is None else function(*arguments)


def _tracing(torch: Any) -> str | None:
    """Words for this thread's being traced, of which only the making of outputs would be recorded."""
    if torch._C._is_tracing():  # noqa: SLF001 - what torch.jit.is_tracing asks
        return f"is traced by torch.jit.trace: {_TRACED}"
    proxies = sys.modules.get("torch.fx.experimental.proxy_tensor")
    traced = _asked(proxies, "get_proxy_mode") is not None
    return f"is traced by torch.fx (make_fx, torch.export): {_TRACED}" if traced else None


def _wrapped(torch: Any, tensor: Any) -> str | None:
    """Words for what stands for other tensors, or for none."""
    kind = type(tensor)
    # A class with operations of its own, such as FakeTensor, NestedTensor or DTensor.
    if kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return f"is {a(tensor)}: {_TRACED if kind.__module__.startswith('torch._subclasses') else _PLAIN}"
    if _asked(torch, "_is_functional_tensor", tensor):
        return f"is wrapped by torch.func.functionalize: {_TRACED}"
    if _asked(torch._C._functorch, "is_functorch_wrapped_tensor", tensor):  # noqa: SLF001 - there is no public question
        return f"is wrapped by torch.func (vmap, grad, jvp ...): {_TRACED}"
    return None


def _unlike_its_memory(torch: Any, tensor: Any) -> str | None:
    """Words for a tensor without memory that holds its values one by one, as they are."""
    if tensor.device.type == "meta":
        return f"is on the meta device, without memory: {_PLAIN}"
    for strange in ("nested", "quantized"):
        if getattr(tensor, f"is_{strange}", False):
            return f"is {strange}: {_PLAIN}"
    if tensor.layout is not torch.strided:
        return f"has layout {tensor.layout}: {_PLAIN}"
    # A conjugate bit is one of complex tensors, which no dtype rule of the library lets pass.
    return "has its negative bit set: resolve_neg() is needed" if tensor.is_neg() else None


def _differentiable(torch: Any, tensor: Any) -> str | None:
    """Words for derivatives that would be lost."""
    if tensor.requires_grad and torch.is_grad_enabled():
        return "requires a gradient, and there is no backward: call this under torch.no_grad(), or detach() it"
    if torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None:
        return "has a tangent, and there is no forward-mode derivative: pass the primal of unpack_dual"
    return None


def _require_memory(torch: Any, tensor: Any, argument: str) -> None:
    """Raises where the memory of a tensor is not to be read or written as what the tensor stands for."""
    trouble = (
        _tracing(torch)
        or _wrapped(torch, tensor)
        or _unlike_its_memory(torch, tensor)
        or _differentiable(torch, tensor)
    )
    if trouble is not None:
        raise UnsupportedError(f"{argument} {trouble}")


class Torch(Framework):
    """PyTorch. Memory comes from its caching allocator, on the stream of the call."""

    def export(self, tensor: Any, argument: str, stream: int | None) -> Any:
        torch = sys.modules["torch"]
        _require_memory(torch, tensor, argument)
        if tensor.requires_grad:  # without gradients: no graph can be lost, and __dlpack__ would refuse it
            tensor = tensor.detach()
        # to_dlpack is C and saves time, but knows no streams.
        if tensor.is_cuda and stream is not None:
            with torch.cuda.device_of(tensor):  # __dlpack__ refuses tensors of another device than the current one
                return super().export(tensor, argument, stream)
        return torch.utils.dlpack.to_dlpack(tensor)

    def empty(self, like: Any, argument: str, shape: tuple[int, ...], dtype: str | None, stream: int | None) -> Any:
        torch = sys.modules["torch"]
        kind = getattr(torch, dtype) if dtype else like.dtype
        if stream is None or not like.is_cuda:
            made = torch.empty(shape, dtype=kind, device=like.device)
        else:
            with torch.cuda.stream(torch.cuda.ExternalStream(stream, like.device)):
                made = torch.empty(shape, dtype=kind, device=like.device)
        _require_memory(torch, made, f"what is made like {argument}")
        return made

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

    def pinned(self, size: int) -> tuple[Any, int]:
        torch = sys.modules["torch"]
        made = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        return made, made.data_ptr()

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

    def to_host(self, tensor: Any) -> Any:
        return tensor.detach().cpu()

    def from_host(self, host: Any, like: Any) -> Any:
        return host.to(like.device)

    def fill(self, tensor: Any, host: Any) -> Any:
        return tensor.copy_(host) if tensor.is_cuda else tensor

    def conditions(self) -> tuple[Condition, ...]:
        # What _require_memory would refuse, as far as a plain torch.Tensor with memory can have it. Traces and levels
        # may be those of other threads; _require_memory asks for those of its own.
        torch = sys.modules["torch"]
        found = [
            Condition(False, function=torch._C._is_tracing),  # noqa: SLF001
            Condition(False, of_tensors=True, attribute="requires_grad", unless=torch.is_grad_enabled),
            Condition(False, of_tensors=True, function=torch.Tensor.is_neg),
        ]
        for module, attribute, idle in (
            ("torch.fx.experimental.proxy_tensor", "_CURRENT_MAKE_FX_TRACER", None),
            ("torch.autograd.forward_ad", "_current_level", -1),
        ):
            if hasattr(sys.modules.get(module), attribute):
                found.append(Condition(idle, attribute=attribute, object=sys.modules[module]))
        return tuple(found)

    def require_computing(self, argument: str) -> None:
        by = _tracing(sys.modules["torch"])
        if by is not None:
            raise UnsupportedError(f"{argument} {by}")

    def met(self) -> None:
        keep_dynamo_out()

    def compact(self, argument: str) -> str:
        return f"{argument}.contiguous()"

    def cast(self, argument: str, dtype: str) -> str:
        return f"{argument}.to(torch.{dtype})"


class Proxy(Framework):
    """What torch.fx.symbolic_trace passes to a function: it stands for values that are not there yet."""

    def export(self, tensor: Any, argument: str, stream: int | None) -> Any:
        del stream
        raise UnsupportedError(f"{argument} is a {type(tensor).__module__}.{type(tensor).__qualname__}: {_TRACED}")
