"""The GPU rows of the kernel table, which of them ran, and which one is forced."""

from __future__ import annotations

import flashmla
from flashmla._cdef import ffi
from flashmla._library import lib

FORCE = "FLASHMLA_FORCE_KERNEL"


def rows_of(operation: str) -> list[dict]:
    """The GPU rows of the kernel table that do the operation."""
    rows = [row for row in flashmla.info()["kernels"] if row["target"] != "cpu"]
    return [row for row in rows if row["operation"] == operation]


def last_kernel() -> str:
    return ffi.string(lib.flashmla_last_kernel()).decode()
