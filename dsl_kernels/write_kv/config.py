"""The kernel of write_kv. Formats and element types are run-time arguments: it is bound by memory."""

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
