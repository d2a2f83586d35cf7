"""What must hold of every compiled kernel. Without a GPU these stand guard over speed and portability."""

from __future__ import annotations

from typing import Any

from dsl_kernels import budget

# wgmma groups that dense_decode waits for: two in QK, one in PV. More means that ptxas serialised the wgmma chain
# (warning C7512), which it does as soon as one register is spilled.
DENSE_DECODE_WAITS = 3
PV_STEPS = 4  # k-steps of 16 tokens in a unit of 64
CUDA_12_ELF_ABI = 7


def problems(kernels: list[dict[str, Any]]) -> list[str]:
    """One sentence per broken rule."""
    found = []
    for k in kernels:
        if "instructions" not in k:
            found.append(f"{k['name']}: not inspected, the disassembler (extra [aot]) is missing")
            continue
        facts = _portable_and_clean(k)
        if k["operation"] == "dense_decode":
            facts += _on_the_fast_path(k)
        found += [f"{k['name']}: {fact}" for fact in facts]
    return found


def _portable_and_clean(k: dict[str, Any]) -> list[str]:
    found = [f"{k[what]} bytes of {what} memory" for what in ("stack", "local") if k[what]]
    if k["shared_bytes"] > budget.SHARED_BYTES_LIMIT:
        found.append(f"{k['shared_bytes']} bytes of shared memory, a block can have {budget.SHARED_BYTES_LIMIT}")
    spills = [(what, k["instructions"][what]) for what in ("LDL", "STL")]
    found += [f"{count} {what} instructions (spills)" for what, count in spills if count]
    if k["elf_abi"] > CUDA_12_ELF_ABI:
        found.append(f"ELF ABI version {k['elf_abi']}, CUDA-12 drivers load up to {CUDA_12_ELF_ABI}")
    return found


def _on_the_fast_path(k: dict[str, Any]) -> list[str]:
    found, count = [], k["instructions"]
    products = k["d_qk"] // 16 + PV_STEPS
    if count["HGMMA"] != products:
        found.append(f"{count['HGMMA']} HGMMA, expected {products}")
    if count["UTMALDG"] == 0:
        found.append("no UTMALDG")
    if count["WARPGROUP.DEPBAR"] != DENSE_DECODE_WAITS:
        waits = count["WARPGROUP.DEPBAR"]
        found.append(f"{waits} WARPGROUP.DEPBAR, expected {DENSE_DECODE_WAITS}: serialised wgmma")
    return found
