"""The kernels of dense_decode, a line each, and what a line costs of an SM: shared memory, registers. Plain arithmetic,
needs no GPU and no DSL.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from dsl_kernels.core.formats import CODES
from dsl_kernels.core.schedule_params import ROWS, UNIT
from dsl_kernels.core.targets import HOPPER
from dsl_kernels.core.variant import ELEMENT_BYTES, Elements
from dsl_kernels.core.variant import Variant as Base

from . import barrier_table

WARPGROUPS = 3  # QK, PV of the left half of the columns, PV of the right half
SLICE = 64  # columns of a slice: 128 bytes, one row of the swizzle
CURSOR = 6  # words of a loader's cursor
RECORD = 8  # words of a work record
# Batch-invariant calls count the pieces that a loader is ahead in so many bits; all ones: it loads nothing.
LOG_AHEAD = 3
# The cursor `at` of loaders that gather (gather.py): a bit for each slot, then how many pieces it is ahead, then
# the piece.
AHEAD_BIT, PIECE_BIT = 5, 7
PV_STEPS = UNIT // 16  # k-steps of P V
HANDED = 8  # k-steps of S at most that QK issues before it hands P of the unit before over
# wgmma groups that are waited for: two in QK, one in PV. More means that ptxas serialised the wgmma chain (warning
# C7512), which it does as soon as one register is spilled.
WGMMA_WAITS = 3


@dataclass(frozen=True)
class Variant(Base):
    FEATURES = ("any_page", "gathers", "fp8_products")
    MAY_PRODUCE: ClassVar[bool] = False  # whether the family has kernels with a producer

    any_page: bool = False  # pages of any size; else of 64 tokens
    gathers: bool = False  # fetches row by row; else TMA brings boxes of rows of a page
    fp8_products: bool = False  # of a cache of codes; else exact ones
    kv_format: str = "bf16"
    batch_invariant: bool = False
    slots: int = 3  # units of 64 tokens in flight in shared memory
    q_steps_in_registers: int = 31  # of the d_v / 16 k-steps (16 columns) of Q's latent part
    early_steps: int = 4  # PV of the unit before may start this many k-steps before Q's steps in registers end
    qk_registers: int = 184  # a thread of the QK warpgroup
    pv_registers: int = 160  # a thread of a PV warpgroup
    producer_registers: int = 0  # a thread of the warpgroup that fetches rows; 0: there is none, PV's warps do
    turns: bool = False  # RoPE parts and P have two slices beside the slots, which items take in turn

    @property
    def name(self) -> str:
        parts = [self.family, self.elements.short, str(self.d_qk), f"cluster{self.cluster}"]
        loads = ["gather"] * self.gathers or ["pages"] * self.any_page
        formats = [self.kv_format] * (self.kv_format != "bf16")
        products = ["qgmma"] * self.fp8_products
        return "_".join(parts + loads + formats + products + ["invariant"] * self.batch_invariant)

    @property
    def boxed(self) -> bool:
        """Whether it reads codes that come by TMA."""
        return self.kv_format in CODES and not self.gathers

    @property
    def threads(self) -> int:
        return 128 * self.warpgroups

    @property
    def warpgroups(self) -> int:
        return WARPGROUPS + (self.producer_registers > 0)

    @property
    def slot_slices(self) -> int:
        """Slices of a slot: the latent part, and one for P, which is the RoPE part's own where there is one."""
        return self.d_v // (2 * SLICE if self.fp8_products else SLICE) + (not self.turns)

    @property
    def rope_slices(self) -> int:
        return -(-(self.d_qk - self.d_v) // SLICE)

    @property
    def any_rope(self) -> bool:
        """Whether rows have fewer RoPE columns than a slice, or may have (288 / 256 beside 320 / 256); in their place
        loaders bring zeros.
        """
        return (self.d_qk - self.d_v) % SLICE != 0 or (self.d_qk, self.d_v) == (320, 256)

    @property
    def narrow(self) -> bool:
        """Whether half of V is one slice: then codes of both parts of a row come as one (narrow.py)."""
        return self.d_v == 2 * SLICE

    @property
    def q_tail_steps(self) -> int:
        """k-steps of Q's latent part that stay in shared memory."""
        return self.d_v // 16 - self.q_steps_in_registers

    @property
    def handed_steps(self) -> int:
        """k-steps of S that are issued before P of the unit before is handed over, with others behind them."""
        return min(HANDED, self.q_steps_in_registers - self.early_steps - 1)

    @property
    def barriers(self) -> tuple[barrier_table.Barrier, ...]:
        if self.gathers or self.boxed:
            return barrier_table.gathering(self.boxed, self.fp8_products)
        return barrier_table.INVARIANT if self.batch_invariant else barrier_table.BARRIERS

    @property
    def shared_bytes(self) -> int:
        """Barriers, work records, cursors and scales, the KV slots, and the part of Q that is not in registers."""
        cursors = 0 if self.boxed else 2 * self.slots if self.producer_registers else 2 * CURSOR
        barriers = barrier_table.BYTES * barrier_table.total(self.slots, self.barriers)
        words = RECORD * barrier_table.records(self.slots) + cursors + ROWS * self.slots
        header = barriers + 4 * words
        kv = ELEMENT_BYTES[self.elements.cache] * UNIT * SLICE * (self.slot_slices * self.slots + 2 * self.turns)
        q = ELEMENT_BYTES[self.elements.q] * ROWS * (SLICE * self.rope_slices + 16 * self.q_tail_steps)
        q *= not self.fp8_products
        q += 2 * UNIT * self.d_v * self.fp8_products  # copies of two units' V (turned.py)
        return -(-header // 1024) * 1024 + kv + q

    @property
    def misfits(self) -> list[str]:
        # setmaxnreg moves registers from warpgroup to warpgroup, it cannot make any
        registers = self.qk_registers + 2 * self.pv_registers + self.producer_registers
        accumulator_s, accumulator_o = ROWS * UNIT // 128, ROWS * self.d_v // 2 // 128  # registers of a thread
        # a k-step of 64 x 16 two-byte values, or of twice as many codes, over 128 threads
        q = self.d_qk // 8 if self.fp8_products else 4 * self.q_steps_in_registers
        rules = {
            "elements of one type": self.elements in (BF16, FP16),
            "more registers than an SM has": registers
            <= self.warpgroups * self.target.registers_at_entry(self.threads),
            "registers come by eights": self.qk_registers % 8
            == self.pv_registers % 8
            == self.producer_registers % 8
            == 0,
            "too few registers for Q and S": q + accumulator_s < self.qk_registers,
            "too few registers for O": accumulator_o < self.pv_registers,
            "clusters are of 1 or 2": self.cluster in (1, 2),
            "each half of V is made of whole slices": self.d_v % (2 * SLICE) == 0,
            "the RoPE part is k-steps of a slice": self.d_qk - self.d_v in range(0, SLICE + 1, 16),
            "Q has not so many k-steps": self.q_tail_steps >= 0,
            "no k-step of Q comes before P is handed over": self.handed_steps > 0,
            # as many as there are records: barriers.py
            "a loader is too many pieces ahead": barrier_table.records(self.slots) < 2**LOG_AHEAD - 1,
            "scales of codes that TMA brings lie in the row": not self.boxed
            or CODES[self.kv_format].scales_at is not None
            or CODES[self.kv_format].one_scale,
            "rows with scales are made in slots of 512 columns": self.kv_format in ("bf16", "fp8") or self.d_v == 512,
            "8-bit products are of codes without scales of their own": not self.fp8_products
            or (self.kv_format == "fp8" and self.boxed and self.q_tail_steps == 0),
            "each half of V is made of whole slices of codes": not self.fp8_products or not self.narrow,
            "of those who gather, only a producer of codes is in a cluster": not (self.gathers or self.boxed)
            or self.cluster == 1
            or (self.producer_registers > 0 and self.kv_format in CODES),
            "who gathers folds no pieces": not (self.gathers or self.boxed) or not self.batch_invariant,
            # of a producer
            "setmaxnreg leaves 24 registers at least": self.producer_registers == 0 or self.producer_registers >= 24,
            "no kernel of the family has a producer": self.producer_registers == 0 or self.MAY_PRODUCE,
            "a producer gathers rows": self.producer_registers == 0 or (self.gathers and not self.batch_invariant),
            "a producer brings no codes with one scale": self.producer_registers == 0
            or not (self.kv_format in CODES and CODES[self.kv_format].one_scale),
            "with a producer of codes there are three slots": not (self.producer_registers and self.kv_format in CODES)
            or self.slots == 3,
            "slices that items take in turn are for RoPE parts of codes and a producer": not self.turns
            or (self.producer_registers > 0 and self.rope_slices > 0 and self.kv_format in CODES),
            # of loaders that gather
            "each slot has a bit in the loader's cursor": self.kv_format not in CODES or self.slots <= AHEAD_BIT,
            "a loader may be so many pieces ahead": barrier_table.records(self.slots) < 1 << (PIECE_BIT - AHEAD_BIT),
        }
        return super().misfits + [rule for rule, kept in rules.items() if not kept]

    @property
    def instructions(self) -> dict[str, range]:
        products, kind, waits = self.d_qk // 16 + PV_STEPS, "HGMMA", WGMMA_WAITS
        if self.producer_registers:
            products += PV_STEPS
        if self.fp8_products:  # a k-step is of twice as many codes, and QK has one group
            products, kind, waits = products // 2, "QGMMA", WGMMA_WAITS - 1
        return super().instructions | {
            kind: range(products, products + 1),
            "UTMALDG": range(1, 1000),
            "WARPGROUP.DEPBAR": range(waits, waits + 1),
        }


BF16 = Elements("bfloat16", "bfloat16", "bfloat16")
FP16 = Elements("float16", "float16", "float16")

VARIANTS = (
    Variant(HOPPER, BF16, 576, 512, cluster=1),
    Variant(HOPPER, BF16, 576, 512, cluster=2),
    Variant(HOPPER, FP16, 576, 512, cluster=1),
    Variant(HOPPER, FP16, 576, 512, cluster=2),
    Variant(HOPPER, BF16, 576, 512, cluster=1, any_page=True),
    Variant(HOPPER, BF16, 576, 512, cluster=2, any_page=True),
    Variant(HOPPER, FP16, 576, 512, cluster=1, any_page=True),
    Variant(HOPPER, FP16, 576, 512, cluster=2, any_page=True),
    Variant(HOPPER, BF16, 512, 512, cluster=1, any_page=True, q_steps_in_registers=30),
    Variant(HOPPER, BF16, 512, 512, cluster=2, any_page=True, q_steps_in_registers=30),
    Variant(HOPPER, FP16, 512, 512, cluster=1, any_page=True, q_steps_in_registers=30),
    Variant(HOPPER, FP16, 512, 512, cluster=2, any_page=True, q_steps_in_registers=30),
    Variant(HOPPER, BF16, 320, 256, cluster=1, any_page=True, slots=5, q_steps_in_registers=16),
    Variant(HOPPER, BF16, 320, 256, cluster=2, any_page=True, slots=5, q_steps_in_registers=16),
    Variant(HOPPER, FP16, 320, 256, cluster=1, any_page=True, slots=5, q_steps_in_registers=16),
    Variant(HOPPER, FP16, 320, 256, cluster=2, any_page=True, slots=5, q_steps_in_registers=16),
    Variant(HOPPER, BF16, 160, 128, cluster=1, any_page=True, slots=5, q_steps_in_registers=8),
    Variant(HOPPER, BF16, 160, 128, cluster=2, any_page=True, slots=5, q_steps_in_registers=8),
    Variant(HOPPER, FP16, 160, 128, cluster=1, any_page=True, slots=5, q_steps_in_registers=8),
    Variant(HOPPER, FP16, 160, 128, cluster=2, any_page=True, slots=5, q_steps_in_registers=8),
)


def _invariant(variant: Variant) -> Variant:
    """For batch-invariant calls. With one block a tile and no RoPE part PV needs registers that QK gives."""
    given: dict[str, int] = {}
    if variant.cluster == 1 and variant.d_qk == variant.d_v:
        given = {"q_steps_in_registers": 27, "qk_registers": 168, "pv_registers": 168}
    return replace(variant, batch_invariant=True, **given)


# and each once more
VARIANTS += tuple(map(_invariant, VARIANTS))

FP8_512 = Variant(HOPPER, BF16, 512, 512, kv_format="fp8", q_steps_in_registers=30)

# Codes in pages of 64 tokens, or a multiple
VARIANTS += (
    Variant(HOPPER, BF16, 576, 512, kv_format="v32"),
    Variant(HOPPER, BF16, 512, 512, kv_format="v32_nope", q_steps_in_registers=30),
    Variant(HOPPER, BF16, 576, 512, kv_format="fp8"),
    FP8_512,
    Variant(HOPPER, BF16, 320, 256, kv_format="fp8", slots=5, q_steps_in_registers=16),
    Variant(HOPPER, BF16, 160, 128, kv_format="fp8", slots=5, q_steps_in_registers=8),
)

# 8-bit products, of the same pages. QK has less in registers than PV, which turns V round (turned.py).
FP8_PRODUCTS = tuple(
    replace(
        variant, fp8_products=True, q_steps_in_registers=variant.d_v // 16, slots=4, qk_registers=136, pv_registers=184
    )
    for variant in VARIANTS
    if variant.kv_format == "fp8" and not variant.narrow
)

# Rows that are gathered: small pages, codes
VARIANTS += tuple(
    replace(variant, gathers=True)
    for variant in VARIANTS
    if variant.any_page and variant.cluster == 1 and not variant.batch_invariant
)
VARIANTS += (
    Variant(HOPPER, BF16, 576, 512, any_page=True, gathers=True, kv_format="v32"),
    *(
        Variant(HOPPER, BF16, 512, 512, any_page=True, gathers=True, kv_format=kv_format, q_steps_in_registers=30)
        for kv_format in ("v32_nope", "model1", "v41")
    ),
    Variant(HOPPER, BF16, 576, 512, any_page=True, gathers=True, kv_format="fp8"),
    # PV has no register left, so QK gives some of its own
    replace(FP8_512, any_page=True, gathers=True, q_steps_in_registers=27, qk_registers=168, pv_registers=168),
    Variant(HOPPER, BF16, 320, 256, any_page=True, gathers=True, kv_format="fp8", slots=5, q_steps_in_registers=16),
    Variant(HOPPER, BF16, 160, 128, any_page=True, gathers=True, kv_format="fp8", slots=5, q_steps_in_registers=8),
)

VARIANTS += FP8_PRODUCTS
