"""The kernels of sparse_decode, a line each. Plain arithmetic, needs no GPU and no DSL."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dsl_kernels.core.formats import CODES
from dsl_kernels.core.targets import HOPPER
from dsl_kernels.core.variant import Elements
from dsl_kernels.dense_decode.barrier_table import Barrier
from dsl_kernels.dense_decode.config import CURSOR
from dsl_kernels.dense_decode.config import Variant as Dense

from .barrier_table import barriers

BF16 = Elements("bfloat16", "bfloat16", "bfloat16")


@dataclass(frozen=True)
class Variant(Dense):
    FEATURES = ()
    MAY_PRODUCE = True

    gathers: bool = True

    @property
    def name(self) -> str:
        parts = [self.family, self.elements.short, str(self.d_qk)] + [self.kv_format] * (self.kv_format != "bf16")
        return "_".join(parts + ["pair"] * (self.cluster > 1))

    @property
    def barriers(self) -> tuple[Barrier, ...]:
        return barriers(self.kv_format not in CODES, self.producer_registers > 0, self.turns, self.cluster > 1)

    @property
    def misfits(self) -> list[str]:
        rules = {
            "two words a slot lie in the place of the cursors": self.producer_registers > 0 or self.slots <= CURSOR,
        }
        return super().misfits + [rule for rule, kept in rules.items() if not kept]

    @property
    def instructions(self) -> dict[str, range]:
        return super().instructions | {"UTMALDG": range(1, 20)}


# A warpgroup that fetches rows, for which QK gives registers. Shared memory has no room for the part of Q that this
# displaces unless RoPE parts take turns; which rows that need no conversion do not gain by, since they come later then.
PRODUCER = {"q_steps_in_registers": 27, "qk_registers": 168, "pv_registers": 160, "producer_registers": 24}
TURNS = PRODUCER | {"turns": True}

VARIANTS = (
    Variant(HOPPER, BF16, 576, 512),
    Variant(HOPPER, BF16, 512, 512, **PRODUCER),
    Variant(HOPPER, BF16, 576, 512, kv_format="v32", **TURNS),
    *(Variant(HOPPER, BF16, 512, 512, kv_format=kv_format, **PRODUCER) for kv_format in ("v32_nope", "model1", "v41")),
)

# Pairs of CTAs, for both blocks of heads of a query token: of rows of codes each makes half.
VARIANTS += tuple(replace(variant, cluster=2) for variant in VARIANTS if variant.kv_format in CODES)
