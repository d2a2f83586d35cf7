"""What must hold of every compiled kernel. Without a GPU these stand guard over speed and portability."""

from __future__ import annotations

from typing import Any

# wgmma groups that dense_decode waits for: two in QK, one in PV. More means that ptxas serialised the wgmma chain (warning C7512),
# which it does as soon as one register is spilled.
DENSE_DECODE_WAITS = 3
DENSE_DECODE_HGMMA = 40  # 36 k-steps of QK and 4 of PV
CUDA_12_ELF_ABI = 7


def problems(kernels: list[dict[str, Any]]) -> list[str]:
    """One sentence per broken rule."""
    found = []
    for k in kernels:
        name, count = k["name"], k.get("instructions")
        if count is None:
            found.append(f"{name}: not inspected, the disassembler (extra [aot]) is missing")
            continue
        for what in ("stack", "local"):
            if k[what]:
                found.append(f"{name}: {k[what]} bytes of {what} memory")
        for what in ("LDL", "STL"):
            if count[what]:
                found.append(f"{name}: {count[what]} {what} instructions (spills)")
        if k["elf_abi"] > CUDA_12_ELF_ABI:
            found.append(f"{name}: ELF ABI version {k['elf_abi']}, CUDA-12 drivers load up to {CUDA_12_ELF_ABI}")
        if k["operation"] == "dense_decode":
            if count["HGMMA"] != DENSE_DECODE_HGMMA:
                found.append(f"{name}: {count['HGMMA']} HGMMA, expected {DENSE_DECODE_HGMMA}")
            if count["UTMALDG"] == 0:
                found.append(f"{name}: no UTMALDG")
            if count["WARPGROUP.DEPBAR"] != DENSE_DECODE_WAITS:
                found.append(f"{name}: {count['WARPGROUP.DEPBAR']} WARPGROUP.DEPBAR, expected {DENSE_DECODE_WAITS}: serialised wgmma")
    return found
