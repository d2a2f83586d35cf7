"""The kernels of merge_states, a line each."""

from __future__ import annotations

from dataclasses import dataclass

from dsl_kernels.core.targets import HOPPER
from dsl_kernels.core.variant import Elements
from dsl_kernels.core.variant import Variant as Base


@dataclass(frozen=True)
class Variant(Base):
    @property
    def threads(self) -> int:
        return 256


VARIANTS = (
    Variant(HOPPER, Elements(out="bfloat16")),
    Variant(HOPPER, Elements(out="float16")),
    Variant(HOPPER, Elements(out="float32")),
)
