"""The kernel of upload, which a pool brings its arrays up to date with."""

from __future__ import annotations

from dataclasses import dataclass

from dsl_kernels.core.targets import HOPPER
from dsl_kernels.core.variant import Variant as Base

THREADS = 128


@dataclass(frozen=True)
class Variant(Base):
    @property
    def threads(self) -> int:
        return THREADS


VARIANTS = (Variant(HOPPER),)
