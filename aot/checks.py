"""What must hold of every compiled kernel. Without a GPU these stand guard over speed and portability."""

from __future__ import annotations

from typing import Any

from dsl_kernels.core.variant import Variant

from . import cubin

CUDA_12_ELF_ABI = 7


def problems(variant: Variant, facts: dict[str, Any]) -> list[str]:
    """One sentence per broken rule."""
    name = variant.name
    found = [f"{facts[what]} bytes of {what} memory" for what in ("stack", "local") if facts[what]]
    if facts["elf_abi"] > CUDA_12_ELF_ABI:
        found.append(f"ELF ABI version {facts['elf_abi']}, CUDA-12 drivers load up to {CUDA_12_ELF_ABI}")
    if "instructions" not in facts:
        found.append("not inspected, the disassembler (extra [test]) is missing")
    if facts.get("instructions", {}).get(cubin.SYSTEM_ATOMICS):
        found.append(f"{cubin.SYSTEM_ATOMICS}, which host memory behind PCIe does not take")
    for instruction, allowed in variant.instructions.items():
        count = facts.get("instructions", {}).get(instruction, allowed.start)
        if count not in allowed:
            most = allowed.stop - 1
            expected = most if allowed.start == most else f"{allowed.start} to {most}"
            found.append(f"{count} {instruction}, expected {expected}")
    return [f"{name}: {fact}" for fact in found]
