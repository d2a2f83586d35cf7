"""Tuning files as the library loads, tells and writes them; what is in one, and how it is measured, is elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from flashmla._cdef import ffi
from flashmla._dynamo import eager
from flashmla._library import lib
from flashmla._scalars import INT32, integer
from flashmla.errors import check, invalid

Entry = dict[str, Any]
"""Fields of flashmla_tuning_entry in tuning.h; texts as such."""
_FIELDS = {name: field.type for name, field in ffi.typeof("flashmla_tuning_entry").fields if name != "struct_size"}


def _text(characters: Any) -> str:
    return str(ffi.string(characters).decode(errors="replace"))


def _path(path: str | os.PathLike[str] | None) -> Any:
    name = b"" if path is None else os.fsencode(path)
    if b"\0" in name:  # C would see what is before it: the name of another file
        raise invalid("FLASHMLA_ERROR_VALUE", f"path is {path!r}; no file's name has a null character")
    return ffi.NULL if path is None else ffi.new("char[]", name)


@eager
def load_tuning(path: str | os.PathLike[str] | None) -> None:
    """Takes a tuning file, which `python -m flashmla tune` writes, instead of what is loaded.

    path  its name; None: forgets what is loaded

    FLASHMLA_TUNING names the file that is loaded with the library. Calls in other threads have the one or the other;
    prepared calls stay as they were prepared. `info()["tuning"]` tells what is loaded.

    Raises InvalidArgumentError for a file that cannot be read, is torn or damaged, or was made for other kernels or for
    none of the GPUs that there are. What was loaded stays then.

    >>> flashmla.load_tuning(None)
    """
    check(lib, lib.flashmla_tuning_load(_path(path)))


def tell(device_id: int = -1) -> dict[str, Any]:
    """What is loaded: path, problem, gpu, None each where there is none; count, and kernels of this library.

    `device_id`: problem tells why calls on that device do not use it, too.
    """
    state = ffi.new("flashmla_tuning_state *")
    state.struct_size = ffi.sizeof("flashmla_tuning_state")
    check(lib, lib.flashmla_tuning_tell(device_id, state))
    texts = {name: _text(getattr(state, name)) or None for name in ("path", "problem", "gpu", "kernels")}
    return {**texts, "count": state.count}


def loaded() -> list[Entry]:
    """The entries of what is loaded, in the order of their shapes."""
    entry = ffi.new("flashmla_tuning_entry *")
    entry.struct_size = ffi.sizeof("flashmla_tuning_entry")
    found = []
    for index in range(tell()["count"]):
        check(lib, lib.flashmla_tuning_at(index, entry))
        values = {name: getattr(entry, name) for name in _FIELDS}
        found.append({name: _text(value) if isinstance(value, ffi.CData) else value for name, value in values.items()})
    return found


def save(path: str | os.PathLike[str], device_id: int, entries: Sequence[Mapping[str, Any]]) -> None:
    """Writes a tuning file for a device; fields that an entry does not have are 0."""
    made = ffi.new("flashmla_tuning_entry[]", max(len(entries), 1))
    kept = []
    for into, entry in zip(made, entries, strict=False):
        into.struct_size = ffi.sizeof("flashmla_tuning_entry")
        for name, value in entry.items():
            if isinstance(value, str):
                kept.append(ffi.new("char[]", value.encode()))
            setattr(into, name, kept[-1] if isinstance(value, str) else integer(value, name, INT32))
    check(lib, lib.flashmla_tuning_save(_path(path), device_id, made, len(entries)))
