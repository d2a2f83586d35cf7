"""Which pieces batch-invariant calls do, and what becomes of them, run as plain Python against the definition: the
kernels' own code says what a work record holds and which slots `fold` joins; here the records are followed.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import schedule
from dsl_kernels.core.schedule_params import CUTS_ARE_READ
from ops.plan_decode.test_plan_kernel import Pointer, stand_ins

CORE = ("attended", "dtypes", "folding", "fragments", "pieces", "schedule", "split_tiles", "threads")
OWN = ("dense_decode.invariant", "dense_decode.work", "dense_decode.invariant_loader", "fold.kernel")


@pytest.fixture(scope="module")
def kernels():
    """The modules `invariant`, `work` and `fold`, and the reader."""
    names = [f"dsl_kernels.core.{name}" for name in CORE] + [f"dsl_kernels.{name}" for name in OWN]
    made = stand_ins()
    made["cutlass.cute.nvgpu"] = ModuleType("cutlass.cute.nvgpu")
    made["cutlass.cute.nvgpu"].warpgroup = made["cutlass.cute.nvgpu"].cpasync = None
    cutlass, cute = made["cutlass"], made["cutlass.cute"]
    cutlass.Boolean, cutlass.const_expr = bool, lambda value: value
    cutlass.BFloat16 = cutlass.Float16 = cutlass.Float32 = float
    cutlass.Int16 = cutlass.Uint32 = int
    cute.Tensor = cute.TiledMma = cute.Pointer = object
    cute.arch.inline_ptx = lambda *_, read_only_args, **__: read_only_args[0]  # opaque
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.delitem(sys.modules, name, raising=False)
        for name, module in made.items():
            patch.setitem(sys.modules, name, module)
        invariant, work, loader, fold = (importlib.import_module(f"dsl_kernels.{name}") for name in OWN)
        yield SimpleNamespace(invariant=invariant, work=work, reader=loader.InvariantReader, fold=fold)
        for name in names:
            sys.modules.pop(name, None)


def begin(j: int, quantum: int) -> int:
    """First unit of a piece, with so many units a quantum."""
    return quantum * (j if j <= 8 else 8 + 2 * (j - 8))


def joined(carried, x):
    """A fold, None being empty."""
    return x if carried is None else carried if x is None else (carried, x)


def canonical(units: int, quantum: int):
    """What a tile of so many units is folded from."""
    result = node = None
    j = 0
    while begin(j, quantum) < units:
        node = joined(node, (begin(j, quantum), min(begin(j + 1, quantum), units), "units"))
        j += 1
        if j % 8 == 0 or begin(j, quantum) >= units:
            result, node = joined(result, node), None
    return result


def runs_of(x) -> list[tuple[int, int]]:
    if x is None:
        return []
    return [x[:2]] if x[-1] == "units" else [run for side in x for run in runs_of(side)]


class Call:
    """A call of fixed queries on a schedule, with lengths of its own."""

    def __init__(self, kernels, tiling, plan, n, capacity):
        self.kernels, self.n, self.batch = kernels, n, len(n)
        self.a = SimpleNamespace(
            cuts=Pointer(map(int, plan.cuts.ravel())), first_slot=Pointer(map(int, plan.first_slot)),
            slots=tiling.slots,
            piece_units=tiling.piece_units, by_piece_units=schedule.divisor(tiling.piece_units),
            capacity=capacity, partial=Pointer([0]),
            num_parts=tiling.num_parts, num_tiles=tiling.num_tiles, slots_per_part=2,
            **CUTS_ARE_READ,
        )  # fmt: skip
        self.slots, self.out, self.written = {}, {}, set()

    def work(self, part: int) -> None:
        a, core = self.a, importlib.import_module("dsl_kernels.core.schedule")
        first, end = core.part_tiles(a, part)
        for tile in range(first, end):
            self.work_on(part, tile)

    def work_on(self, part: int, tile: int) -> None:
        invariant, work = self.kernels.invariant, self.kernels.work
        a, units, number = self.a, self.n[tile % self.batch], self.kernels.reader.FIRST
        for count in range(10**5):
            run = invariant.run_of(a, part, tile)
            where, start, stop, marks = invariant.describe(a, part, number, units, run)
            assert bool(marks & invariant.SAME_Q) == (count > 0)
            assert invariant.part_of(where) == part
            assert stop - start >= min(count, 1) + 1
            x = (start, min(stop, units), "units") if start < units else None
            for source, mark in enumerate((invariant.FOLDS_NODE, invariant.FOLDS_TILE)):
                if where & mark:
                    x = joined(self.slots.get(2 * part + source), x)
            if where < 0:
                assert not where & invariant.MORE
                self.out[tile] = x
            else:
                slot = where & (2**20 - 1)
                assert slot < a.slots
                self.slots[slot] = x
                self.written.add((slot, part, tile))
            if not where & invariant.MORE:
                return
            record = {work.SLOT: where, work.TOKENS: marks, work.FIRST_UNIT: start, work.TILE: tile}
            smem = SimpleNamespace(sWork=SimpleNamespace(__getitem__=None))
            smem.sWork = Words(record)
            reader = self.kernels.reader(SimpleNamespace(a=a, bars=None, smem=smem))
            *same, following = reader.next_piece(0, None)
            assert same == [part, tile]
            assert following > number
            number = following
        pytest.fail("pieces without end")

    def items_of(self, begins: int, ends: int):
        """Slots of the tile that these parts begin and end."""
        fold = self.kernels.fold.Fold
        kernel = SimpleNamespace(a=self.a, sBegins=[begins], sEnds=[ends])
        kernel.items_before = lambda part, shift: fold.items_before(kernel, part, shift)
        return fold.items_of(kernel, 0)

    def fold(self) -> None:
        """As the kernel of that name."""
        a = self.a
        cuts = np.array(a.cuts).reshape(-1, 2)
        begins = [w for w in range(a.num_parts)
                  if cuts[w + 1, 1] > 0 and (cuts[w, 0] != cuts[w + 1, 0] or cuts[w, 1] == 0)]  # fmt: skip
        for w in begins:
            tile = int(cuts[w + 1, 0])
            last = max(v for v in range(a.num_parts) if cuts[v, 0] == tile and cuts[v, 1] > 0)
            first, count, are_pieces = self.items_of(w, last)
            result = node = None
            for number in range(count):
                assert first + number in self.slots, "a slot that nobody wrote"
                node = joined(node, self.slots[first + number])
                if number % 8 == 7 or number == count - 1 or not are_pieces:
                    result, node = joined(result, node), None
            assert tile not in self.out
            self.out[tile] = result

    def run(self) -> None:
        for part in range(self.a.num_parts):
            self.work(part)
        items = [slot for slot, _, _ in self.written if slot >= 2 * self.a.num_parts]
        assert len(items) == len(set(items)), "two items in one slot"
        for slot, part, _ in self.written:
            assert slot >= 2 * self.a.num_parts or slot // 2 == part, "another part's carry"
        self.fold()


class Words(dict):
    """Words of one work record."""

    def __getitem__(self, at):
        return super().__getitem__(at[0])


def drawn(draw, number: int):
    batch, s_q = int(draw.choice([1, 2, 5, int(draw.integers(3, 90))])), int(draw.choice([1, 1, 2]))
    capacity = int(draw.choice([64, 20_000, 200_000, 1_000_000]))
    limits = schedule.hopper(int(draw.choice([132, 6])))
    tiling = schedule.tile(
        limits, batch=batch, s_q=s_q, h_q=int(draw.choice([16, 128])), h_kv=1, max_blocks=capacity // 64 + 1,
        num_splits=0, batch_invariant=True,
    )  # fmt: skip
    capacity = (capacity // 64 + 1) * 64
    parts = tiling.num_parts
    slots = (tiling.slots, 2 * parts + int(draw.integers(0, 4 * parts)), 2 * parts)[number % 3]
    tiling = dataclasses.replace(tiling, slots=max(slots, 2 * parts))
    lengths = schedule.draw_lengths(draw, schedule.SPREADS[number // 3 % len(schedule.SPREADS)], batch, capacity)
    n = [int(x) for x in schedule.units(limits, lengths, capacity)]
    return limits, tiling, n, capacity


def test_every_tile_is_folded_as_the_definition_says(kernels):
    draw, levels = np.random.default_rng(1), set()
    for number in range(90):
        limits, tiling, n, capacity = drawn(draw, number)
        plan = schedule.schedule(limits, tiling, np.array(n))
        levels.add(int(plan.first_slot[-1]))
        call = Call(kernels, tiling, plan, n, capacity)
        call.run()
        for tile in range(tiling.num_tiles):
            assert call.out[tile] == canonical(n[tile % len(n)], tiling.piece_units)
    assert levels == {0, 1, 2}


def test_rows_are_right_with_lengths_that_changed_after_planning(kernels):
    draw = np.random.default_rng(2)
    for number in range(90):
        limits, tiling, n, capacity = drawn(draw, number)
        plan = schedule.schedule(limits, tiling, np.array(n))
        most = capacity // 64
        now = [int(x) for x in np.clip(np.array(n) + draw.integers(-200, 200, len(n)) * draw.integers(0, 20), 0, most)]
        call = Call(kernels, tiling, plan, now, capacity)
        call.run()
        for tile in range(tiling.num_tiles):
            runs = runs_of(call.out[tile])
            units = now[tile % len(now)]
            assert [run[0] for run in runs] == [0, *(run[1] for run in runs[:-1])][: len(runs)]
            assert (runs[-1][1] if runs else 0) == units


def test_garbage_neither_leads_outside_nor_goes_on_for_ever(kernels):
    draw = np.random.default_rng(3)
    for number in range(60):
        limits, tiling, n, capacity = drawn(draw, number)
        plan = schedule.schedule(limits, tiling, np.array(n))
        high = int(draw.choice([4, 1000, 2**31 - 1]))
        plan.cuts[:, 0] = draw.integers(-2, tiling.num_tiles + 3, len(plan.cuts))
        plan.cuts[:, 1] = draw.integers(-high, high, len(plan.cuts))
        plan.first_slot[:] = draw.integers(-high, high, len(plan.first_slot))
        call = Call(kernels, tiling, plan, n, capacity)
        for part in range(min(tiling.num_parts, 12)):
            first = max(int(plan.cuts[part, 0]), 0)
            for tile in {
                min(first, tiling.num_tiles - 1),
                min(max(int(plan.cuts[part + 1, 0]), 0), tiling.num_tiles - 1),
            }:
                call.work_on(part, tile)
            found, count, _ = call.items_of(part, int(draw.integers(-high, high)))
            assert found >= 0
            assert found + count <= tiling.slots
