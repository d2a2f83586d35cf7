"""The kernels of sparse_decode, a line each. Plain arithmetic, needs no GPU and no DSL."""

from __future__ import annotations

from dataclasses import dataclass

from dsl_kernels.core.targets import HOPPER
from dsl_kernels.core.variant import Elements
from dsl_kernels.dense_decode.config import CURSOR
from dsl_kernels.dense_decode.config import Variant as Dense

BF16 = Elements("bfloat16", "bfloat16", "bfloat16")


@dataclass(frozen=True)
class Variant(Dense):
    FEATURES = ()

    gathers: bool = True

    @property
    def name(self) -> str:
        parts = [self.family, self.elements.short, str(self.d_qk)]
        return "_".join(parts + [self.kv_format] * (self.kv_format != "bf16"))

    @property
    def misfits(self) -> list[str]:
        rules = {
            "two words a slot lie in the place of the cursors": self.slots <= CURSOR,
        }
        return super().misfits + [rule for rule, kept in rules.items() if not kept]

    @property
    def instructions(self) -> dict[str, range]:
        return super().instructions | {"UTMALDG": range(1, 20)}


VARIANTS = (
    Variant(HOPPER, BF16, 576, 512),
    Variant(HOPPER, BF16, 512, 512, q_steps_in_registers=30),
    Variant(HOPPER, BF16, 576, 512, kv_format="v32"),
    Variant(HOPPER, BF16, 512, 512, q_steps_in_registers=30, kv_format="v32_nope"),
    Variant(HOPPER, BF16, 512, 512, q_steps_in_registers=30, kv_format="model1"),
    Variant(HOPPER, BF16, 512, 512, q_steps_in_registers=30, kv_format="v41"),
)
