"""Faults of the sparse_decode kernels, and of sinks in all kernels, that the GPU suite must find."""

from __future__ import annotations

from planted_faults import Edit, KernelFault

FOLDER = "dsl_kernels/sparse_decode/"
SELECTION, QK = FOLDER + "selection.py", FOLDER + "qk.py"
PRODUCER, FED_PV = "dsl_kernels/dense_decode/producer.py", "dsl_kernels/dense_decode/fed_pv.py"
MADE, CODES = "dsl_kernels/dense_decode/made_codes.py", "dsl_kernels/dense_decode/codes.py"
SINKS, SCHEDULE = "dsl_kernels/core/sinks.py", "dsl_kernels/core/schedule.py"


def fault(name: str, file: str, before: str, after: str, *, always: bool = True) -> KernelFault:
    return KernelFault(name, (Edit(file, before, after),), always, ("sparse_decode",))


GPU_FAULTS = [
    # ---- which rows
    fault("a slot beyond the cache", SELECTION, "(index < Int32(slots))", "(index <= Int32(slots))"),
    fault("upper half of a wide index", SELECTION, "index if upper == 0 else", "index if upper != 77 else"),
    fault("extra rows begin within a unit", SELECTION, "place - attended.units_of(count) * UNIT", "place - count"),
    fault("rows behind the length", SELECTION, "if place < count:", "if place < count + 1:"),
    fault("length of the extra selection", SELECTION, "UNIT, sWork[EXTRA, record]", "UNIT, count"),
    fault(
        "pages of the extra cache",
        SELECTION,
        "block_step = a.extra_block_step if extra else a.block_step",
        "block_step = a.block_step",
    ),
    fault("scales of the extra cache", SELECTION, "a.extra_scales_at if extra else a.scales_at", "a.scales_at"),
    fault(
        "tokens all select what the first does",
        SELECTION,
        "sWork[work.QUERY, record] + schedule.first_token(a, tile * kernel.blocks)",
        "sWork[work.QUERY, record]",
    ),
    fault("whole tiles of one of two formats", SELECTION, "if self.a.stores_all != 0", "if self.a.stores_all == 77"),
    fault("begin cost of known cuts", SCHEDULE, "tile * a.tile_cost - a.begin_cost", "tile * a.tile_cost"),
    fault(
        "partial rows of a pair lie in one place",
        "dsl_kernels/dense_decode/epilogue.py",
        "(Int64(slot) * kernel.blocks + kernel.rank)",
        "(Int64(slot) * kernel.blocks)",
    ),
    # ---- what is made of codes, in a pair for each other
    fault(
        "a stretch is made by the other CTA",
        MADE,
        "STRETCH * self.kernel.rank + EIGHT",
        "STRETCH * (1 - self.kernel.rank) + EIGHT",
    ),
    fault("codes of odd slices", MADE, "(column + 4 * odd) ^", "column ^"),
    fault("scales of another tile", MADE, "pair >> 1 if self.codes.tile == 64 else pair", "pair"),
    fault("scales beside codes", MADE, "return 124 * row + 64 - ((row & 1) << 6)", "return 124 * row"),
    fault(
        "a slice is not shared",
        MADE,
        "            which = self.own_slice(half, warp)\n",
        "            which = self.own_slice(half, warp & 2)\n",
    ),
    fault(
        "a slice is shared before all lanes have made it",
        MADE,
        "        cute.arch.sync_warp()\n        with cute.arch.elect_one():",
        "        with cute.arch.elect_one():",
        always=False,
    ),
    fault(
        "codes of two slices are overwritten that a warp reads",
        MADE,
        "self.kernel.bars.sync_two_warps(half, warp)",
        "cute.arch.sync_warp()",
        always=False,
    ),
    fault("codes of a word's lower half twice", CODES, "e4m3x2 h, c{which}", "e4m3x2 h, c0"),
    fault("scales of every other slice", MADE, "which & 3 if const_expr(", "which & 2 if const_expr("),
    fault(
        "rows are staged while the other CTA copies",
        FED_PV,
        "cute.arch.mbarrier_wait(self.bars.sum_empty(), piece & 1)",
        "pass",
        always=False,
    ),
    fault(
        "what is made is copied while the other CTA needs its place",
        FED_PV,
        "            self.bars.wait_until_empty(slot, half, phase)\n",
        "",
        always=False,
    ),
    fault(
        "rows are fetched over what is copied and used",
        PRODUCER,
        "            self.bars.wait_until_free(slot, phase)\n",
        "            pass\n",
        always=False,
    ),
    # ---- which logits
    fault("rows that are not attended are not hidden", QK, "if (low & high) != -1:", "if (low & high) == 77:"),
    fault("sinks in base 2", SINKS, "element(a.sink, head) * LOG2_E", "element(a.sink, head)"),
    fault("sinks of even heads", SINKS, "element(a.sink, head)", "element(a.sink, head // 2 * 2)"),
    # ---- order
    fault(
        "rows are used before they have come",
        FED_PV,
        "cute.arch.mbarrier_wait(self.bars.fetched(slot), phase)",
        "pass",
        always=False,
    ),
    fault(
        "fence before rows are handed over",
        FED_PV,
        'cute.arch.fence_proxy("async.shared", space="cta")',
        "pass",
        always=False,
    ),
    fault(
        "RoPE parts of the unit behind",
        PRODUCER,
        "self.start_rope(warp, item - 1, record, unit - 2, before)",
        "self.start_rope(warp, item - 1, record, unit - 2, index)",
    ),
    fault(
        "RoPE parts are used before they have come",
        "dsl_kernels/dense_decode/qk.py",
        "                    cute.arch.mbarrier_wait(bar, parity)\n",
        "",
        always=False,
    ),
]
