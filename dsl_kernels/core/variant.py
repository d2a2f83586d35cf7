"""What a line of the kernel table says, whatever the operation. Standard library only.

An operation's config.py has a class `Variant` on this one, and its lines `VARIANTS`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from .targets import Target

SHORT_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
ELEMENT_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
INSPECTED = ("HGMMA", "QGMMA", "UTMALDG", "WARPGROUP.DEPBAR", "LDL", "STL")  # instructions that are counted in a cubin


@dataclass(frozen=True)
class Elements:
    """Element types by role; None: the kernel touches none of that role."""

    q: str | None = None
    cache: str | None = None
    out: str | None = None  # results; what an operation on results joins

    @property
    def short(self) -> str:
        """As a part of a kernel's name."""
        return "_".join(dict.fromkeys(SHORT_DTYPES[e] for e in (self.q, self.cache, self.out) if e))


@dataclass(frozen=True)
class Variant:
    FEATURES: ClassVar[tuple[str, ...]] = ()  # fields that are true or false and by which a kernel is chosen

    target: Target
    elements: Elements = field(default_factory=Elements)
    d_qk: int = 0  # columns of Q and of a KV row; 0 where the kernel does not see them
    d_v: int = 0  # columns of V, the first of a KV row; 0: any
    cluster: int = 1  # CTAs that work together
    kv_format: ClassVar[str] = "bf16"  # how tokens lie in the cache: a flashmla_kv_format, "v32" for FLASHMLA_KV_V32
    batch_invariant: ClassVar[bool] = False  # whether it is for batch-invariant calls, alone, or for others

    @property
    def family(self) -> str:
        """The operation's folder in dsl_kernels."""
        return type(self).__module__.split(".")[-2]

    @property
    def name(self) -> str:
        return "_".join(part for part in (self.family, self.elements.short, str(self.d_v or "")) if part)

    @property
    def features(self) -> list[str]:
        return [name for name in self.FEATURES if getattr(self, name)]

    @property
    def threads(self) -> int:
        """Of a block."""
        raise NotImplementedError

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        return 0

    @property
    def misfits(self) -> list[str]:
        """Why the target cannot run it; empty: it can."""
        most = self.target.shared_bytes
        return [f"{self.shared_bytes} bytes of shared memory, a block can have {most}"] * (self.shared_bytes > most)

    @property
    def instructions(self) -> dict[str, range]:
        """How many of the INSPECTED instructions the compiled kernel may have. A spill is never allowed."""
        return {"LDL": range(1), "STL": range(1)}
