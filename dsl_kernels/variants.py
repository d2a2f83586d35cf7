"""The table of kernels: one line each. Standard library only.

From it come the cubins, the launcher's table, the manifest, the support matrix and the test ids. To add a kernel, add a
line (and, for a new algorithm, its class beside this file); `budget.py` says whether it fits the chip.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    operation: str  # a key of params.BY_OPERATION; its class is dsl_kernels.<operation>
    dtype: str = "any"  # "bfloat16", "float16", or "any" when no element is touched
    cluster: int = 1  # row blocks of 64 that share the KV stream of a tile
    slots: int = 3  # pages in flight in shared memory
    q_steps_in_registers: int = 31  # of the 32 k-steps (16 columns) of Q's latent part
    registers: tuple[int, int] = (184, 160)  # a thread of the QK and of the PV warpgroups
    lead_steps: int = 4  # PV of the page before is told to go this many + 4 k-steps before the end of QK

    @property
    def name(self) -> str:
        parts = [self.operation, {"bfloat16": "bf16", "float16": "fp16", "any": ""}[self.dtype]]
        if self.operation == "dense_decode":
            parts.append(f"cluster{self.cluster}")
        return "_".join(p for p in parts if p)


VARIANTS: tuple[Variant, ...] = (
    Variant("dense_decode", "bfloat16", cluster=1),
    Variant("dense_decode", "bfloat16", cluster=2),
    Variant("dense_decode", "float16", cluster=1),
    Variant("dense_decode", "float16", cluster=2),
    Variant("combine", "bfloat16"),
    Variant("combine", "float16"),
    Variant("plan"),
)
