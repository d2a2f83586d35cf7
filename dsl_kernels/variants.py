"""The table of kernels: one line each. Standard library only.

From it come the cubins, the launcher's table, the manifest, the support matrix and the test ids. To add a kernel, add a
line (and, for a new algorithm, its class beside this file); `budget.py` says whether it fits the chip.
"""

from __future__ import annotations

from dataclasses import dataclass

SHORT_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "any": ""}


@dataclass(frozen=True)
class Variant:
    operation: str  # a key of params.BY_OPERATION; its class is dsl_kernels.<operation>
    dtype: str = "any"  # "bfloat16", "float16", "float32", or "any" when no element is touched
    d_qk: int = 0  # columns of Q and of a KV row; 0 where the kernel does not see them
    d_v: int = 0  # columns of V, the first of a KV row; 0: any
    any_page: bool = False  # pages of any size that the launcher has boxes for; else of 64 tokens
    cluster: int = 1  # row blocks of 64 that share the KV stream of a tile
    slots: int = 3  # units of 64 tokens in flight in shared memory
    q_steps_in_registers: int = 31  # of the d_v / 16 k-steps (16 columns) of Q's latent part
    registers: tuple[int, int] = (184, 160)  # a thread of the QK and of the PV warpgroups
    lead_steps: int = 4  # PV of the unit before is told to go this many k-steps before Q's steps in registers end

    @property
    def name(self) -> str:
        parts = [self.operation, SHORT_DTYPES[self.dtype]]
        if self.operation == "dense_decode":
            parts += [str(self.d_qk), f"cluster{self.cluster}", "pages" if self.any_page else ""]
        elif self.d_v:
            parts.append(str(self.d_v))
        return "_".join(p for p in parts if p)


# The launcher takes the first row that does a call.
VARIANTS: tuple[Variant, ...] = (
    Variant("dense_decode", "bfloat16", 576, 512, cluster=1),
    Variant("dense_decode", "bfloat16", 576, 512, cluster=2),
    Variant("dense_decode", "float16", 576, 512, cluster=1),
    Variant("dense_decode", "float16", 576, 512, cluster=2),
    Variant("dense_decode", "bfloat16", 576, 512, any_page=True, cluster=1),
    Variant("dense_decode", "bfloat16", 576, 512, any_page=True, cluster=2),
    Variant("dense_decode", "float16", 576, 512, any_page=True, cluster=1),
    Variant("dense_decode", "float16", 576, 512, any_page=True, cluster=2),
    Variant("dense_decode", "bfloat16", 512, 512, any_page=True, cluster=1, q_steps_in_registers=30),
    Variant("dense_decode", "bfloat16", 512, 512, any_page=True, cluster=2, q_steps_in_registers=30),
    Variant("dense_decode", "float16", 512, 512, any_page=True, cluster=1, q_steps_in_registers=30),
    Variant("dense_decode", "float16", 512, 512, any_page=True, cluster=2, q_steps_in_registers=30),
    Variant("dense_decode", "bfloat16", 320, 256, any_page=True, cluster=1, slots=5, q_steps_in_registers=16),
    Variant("dense_decode", "bfloat16", 320, 256, any_page=True, cluster=2, slots=5, q_steps_in_registers=16),
    Variant("dense_decode", "float16", 320, 256, any_page=True, cluster=1, slots=5, q_steps_in_registers=16),
    Variant("dense_decode", "float16", 320, 256, any_page=True, cluster=2, slots=5, q_steps_in_registers=16),
    Variant("combine", "bfloat16", d_v=512),
    Variant("combine", "float16", d_v=512),
    Variant("combine", "bfloat16", d_v=256),
    Variant("combine", "float16", d_v=256),
    Variant("plan"),
    Variant("merge_states", "bfloat16"),
    Variant("merge_states", "float16"),
    Variant("merge_states", "float32"),
)
