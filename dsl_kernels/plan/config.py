"""The kernels of plan, a line each."""

from __future__ import annotations

from dataclasses import dataclass

from dsl_kernels.core.schedule_params import BUDGETS, LOG_MAX_PARTS
from dsl_kernels.core.targets import HOPPER
from dsl_kernels.core.variant import Variant as Base

LOG2_THREADS = 8
WARP = 32
WARPS = (1 << LOG2_THREADS) // WARP
NOTED = 8  # parts, of which the begin of one is noted (filling.py)
NOTES = (1 << LOG_MAX_PARTS) // NOTED * BUDGETS


@dataclass(frozen=True)
class Variant(Base):
    @property
    def threads(self) -> int:
        return 1 << LOG2_THREADS

    @property
    def shared_bytes(self) -> int:
        return 8 * (2 * self.threads + WARPS + NOTES)  # sums of threads and of warps, notes of budgets


VARIANTS = (Variant(HOPPER),)
