"""The kernels of fold, a line each."""

from __future__ import annotations

from dataclasses import dataclass

from dsl_kernels.core.schedule_params import LOG_MAX_PARTS
from dsl_kernels.core.targets import HOPPER
from dsl_kernels.core.variant import Elements
from dsl_kernels.core.variant import Variant as Base

THREADS = 1 << LOG_MAX_PARTS  # one for each part, to find the tiles that are cut
WARPS = THREADS // 32
BLOCKS_PER_SM = 2  # run at once: each waits for loads


@dataclass(frozen=True)
class Variant(Base):
    @property
    def threads(self) -> int:
        return THREADS

    @property
    def shared_bytes(self) -> int:
        lists, found = 5 * THREADS, WARPS
        return 4 * (lists + found)


VARIANTS = (
    Variant(HOPPER, Elements(out="bfloat16"), d_v=512),
    Variant(HOPPER, Elements(out="float16"), d_v=512),
    Variant(HOPPER, Elements(out="bfloat16"), d_v=256),
    Variant(HOPPER, Elements(out="float16"), d_v=256),
    Variant(HOPPER, Elements(out="bfloat16"), d_v=128),
    Variant(HOPPER, Elements(out="float16"), d_v=128),
)
