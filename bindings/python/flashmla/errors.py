"""Exceptions. Where the C library refuses a call, the message is its own sentence and `status` its number."""

from __future__ import annotations

from typing import Any

from flashmla._cdef import ffi

_NAMES: dict[int, str] = ffi.typeof("flashmla_status").elements
_NUMBERS: dict[str, int] = ffi.typeof("flashmla_status").relements


class FlashMLAError(Exception):
    """Base of all errors of this package."""

    def __init__(self, message: str, status: int = _NUMBERS["FLASHMLA_ERROR_UNSUPPORTED"]) -> None:
        super().__init__(message)
        self.status = status
        """The `flashmla_status` number; its meaning is pinned in core.h."""
        self.of_library = False
        """The C library refused the call; else the package did."""

    @property
    def status_name(self) -> str:
        """The C name of `status`, e.g. "FLASHMLA_ERROR_SHAPE"."""
        return _NAMES.get(self.status, f"flashmla_status {self.status}")


class InvalidArgumentError(FlashMLAError, ValueError):
    """The call is wrong (status 1xx)."""


class UnsupportedError(FlashMLAError):
    """The call is legal, but this build or device cannot do it (status 2xx)."""


class DeviceError(FlashMLAError):
    """The machine failed: no driver, a driver error, out of host memory (status 3xx)."""


class PoolFullError(FlashMLAError):
    """A pool has no room for the call now (status 4xx), and nothing has changed: free or swap out sequences before."""


class ABIMismatchError(FlashMLAError, ImportError):
    """The library found does not speak the binary interface that this package was made for."""


_CLASSES: dict[int, type[FlashMLAError]] = {
    1: InvalidArgumentError,
    2: UnsupportedError,
    3: DeviceError,
    4: PoolFullError,
}


def error_for(status: int, message: str) -> FlashMLAError:
    """The exception for a C status."""
    error = _CLASSES.get(status // 100, FlashMLAError)(message, status)
    error.of_library = True
    return error


def invalid(name: str, message: str) -> InvalidArgumentError:
    """The exception for a rule that only Python can see; `name` is the C name of the status that fits it best."""
    return InvalidArgumentError(message, _NUMBERS[name])


def check(lib: Any, status: int) -> None:
    """Raises for a C status that is not FLASHMLA_OK, with the sentence of the C library."""
    if status:
        raise error_for(status, ffi.string(lib.flashmla_last_error()).decode(errors="replace"))
