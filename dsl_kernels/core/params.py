"""Parameter lists of the kernels: the order in which the launcher passes them. Standard library only.

From an operation's list (PARAMS in its params.py) come the kernels' signature (a tuple in this order, read by name
through `Named`), the C struct of the launcher (aot/header.py) and the layout check of the compiled entry
(aot/compiling.py). CONSTANTS there, if any, is what the C core must agree on: FM_KERNEL_* in kernel_params.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Param:
    name: str
    ctype: str  # in the launcher's struct: "tensormap", or a number or a pointer of C
    meaning: str
    align: int = 4  # of what a pointer points to, bytes
    element: str = ""  # of a tensor map or a void pointer: a role of core.variant.Elements, or a dtype

    @property
    def pointer(self) -> bool:
        return self.ctype.endswith("*")

    @property
    def size(self) -> int:
        """Bytes of the parameter itself."""
        if self.ctype == "tensormap":
            return 128
        return 8 if self.pointer or self.ctype == "int64_t" else 4


class Named:
    """The run-time values of a kernel by name. Read-only, and opaque to the tracing of loop-carried values."""

    __slots__ = ("_values",)

    def __init__(self, params: tuple[Param, ...], values: Any, **constants: int) -> None:
        """constants: what is a parameter of others and always the same here."""
        names = [p.name for p in params if p.ctype != "tensormap"]  # tensor maps travel apart from this tuple
        object.__setattr__(self, "_values", dict(zip(names, values, strict=True)) | constants)

    def but(self, **values: Any) -> Named:
        """The same with other values for some names."""
        changed = Named((), ())
        object.__setattr__(changed, "_values", self._values | values)
        return changed

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(name) from None
