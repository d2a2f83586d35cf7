"""The kernel of check_decode."""

from __future__ import annotations

from dataclasses import dataclass

from dsl_kernels.core.targets import HOPPER
from dsl_kernels.core.variant import Variant as Base

THREADS = 256


@dataclass(frozen=True)
class Variant(Base):
    @property
    def threads(self) -> int:
        return THREADS

    @property
    def shared_bytes(self) -> int:
        return 0


VARIANTS = (Variant(HOPPER),)
