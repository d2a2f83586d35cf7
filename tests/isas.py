"""The instruction sets of the CPU backend."""

from __future__ import annotations

import os

NAMES = ("portable", "avx2", "avx512", "avx512_bf16", "amx")  # lowest first


def chosen(name: str | None) -> str:
    """The set that the library takes when this one is asked for; None: the best."""
    from flashmla._library import ffi, lib

    before = os.environ.pop("FLASHMLA_CPU_ISA", None)
    try:
        if name is not None:
            os.environ["FLASHMLA_CPU_ISA"] = name
        return ffi.string(lib.flashmla_cpu_isa()).decode()
    finally:
        os.environ.pop("FLASHMLA_CPU_ISA", None)
        if before is not None:
            os.environ["FLASHMLA_CPU_ISA"] = before


def missing() -> list[str]:
    """Those that this machine lacks."""
    return [name for name in NAMES if chosen(name) != name]
