"""FlashMLA's names of arguments, and errors that speak of them."""

from __future__ import annotations

import re

from flashmla.errors import DeviceError, FlashMLAError, InvalidArgumentError, UnsupportedError


class InvalidArgumentRuntimeError(InvalidArgumentError, RuntimeError):
    """The call is wrong."""


class UnsupportedRuntimeError(UnsupportedError, RuntimeError):
    """The call is legal, but this build or device cannot do it."""


class DeviceRuntimeError(DeviceError, RuntimeError):
    """The machine failed."""


_KINDS: dict[type[FlashMLAError], type[FlashMLAError]] = {
    InvalidArgumentError: InvalidArgumentRuntimeError,
    UnsupportedError: UnsupportedRuntimeError,
    DeviceError: DeviceRuntimeError,
}

OURS = {
    "k_cache": "kv_cache",
    "extra_k_cache": "extra_kv_cache",
    "extra_indices_in_kvcache": "extra_indices",
    "enable_batch_invariant": "batch_invariant",
}
"""Names that differ."""

_NAME = re.compile(rf"\b({'|'.join(OURS.values())})\b")
_THEIRS = {ours: theirs for theirs, ours in OURS.items()}


def as_the_peers(error: FlashMLAError) -> FlashMLAError:
    """The error to raise in the place of one of ours: a RuntimeError too, as the peer's C++ raises."""
    sentence = _NAME.sub(lambda found: _THEIRS[found[0]], str(error))
    kind = _KINDS.get(type(error), type(error))
    return kind(sentence, error.status).with_traceback(error.__traceback__)
