"""The instruction sets of the CPU backend."""

from __future__ import annotations

import environment

NAMES = ("portable", "avx2", "avx512", "avx512_bf16", "amx")  # lowest first


def chosen(name: str) -> str:
    """The set that the library takes when this one is asked for."""
    from flashmla._library import ffi, lib

    with environment.variable("FLASHMLA_CPU_ISA", name):
        return ffi.string(lib.flashmla_cpu_isa()).decode()


def missing() -> list[str]:
    """Those that this machine lacks."""
    return [name for name in NAMES if chosen(name) != name]
