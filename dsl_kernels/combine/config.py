"""The kernels of combine, a line each."""

from __future__ import annotations

from dataclasses import dataclass

from dsl_kernels.core.schedule_params import MAX_SPLITS
from dsl_kernels.core.targets import HOPPER
from dsl_kernels.core.variant import Elements
from dsl_kernels.core.variant import Variant as Base

THREADS = MAX_SPLITS // 2  # where a CTA merges a row, a thread weighs two pieces
WARPS = THREADS // 32
VECTOR = 8  # float16 values of a load at most


@dataclass(frozen=True)
class Variant(Base):
    @property
    def threads(self) -> int:
        return THREADS

    @property
    def vector(self) -> int:
        """float16 values of a load: a warp has a row at once at least."""
        return min(VECTOR, self.d_v // 32)

    @property
    def shared_bytes(self) -> int:
        sums, weights, reduced, lists, found = THREADS * self.vector, 2 * MAX_SPLITS, 2 * WARPS, 5 * THREADS, WARPS
        return 4 * (sums + weights + reduced + lists + found)


VARIANTS = (
    Variant(HOPPER, Elements(out="bfloat16"), d_v=512),
    Variant(HOPPER, Elements(out="float16"), d_v=512),
    Variant(HOPPER, Elements(out="bfloat16"), d_v=256),
    Variant(HOPPER, Elements(out="float16"), d_v=256),
    Variant(HOPPER, Elements(out="bfloat16"), d_v=128),
    Variant(HOPPER, Elements(out="float16"), d_v=128),
)
