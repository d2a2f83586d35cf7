"""The device scheduler (dsl_kernels/plan) run as plain Python, by one thread and by several, against the definition.

The module's own code runs; of the DSL it finds stand-ins here that compute with Python's integers and refuse what does
not fit in 32 or 64 bits. tests/gpu/test_device_schedule.py compares the compiled kernel.
"""

from __future__ import annotations

import builtins
import importlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import schedule
from dsl_kernels.plan.config import VARIANTS
from dsl_kernels.plan.params import PARAMS
from ops.sparse_decode.launches import limits_of as sparse_limits


def integer(bits: int, *, signed: bool = True):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)

    def convert(value: int) -> int:
        assert low <= value < high, f"{value} in {bits} bits"
        return int(value)

    return convert


class Pointer(list):
    """Device memory; empty: null."""

    def toint(self) -> int:
        return len(self)


def loop(*bounds: int, unroll: int) -> range:
    assert unroll == 1
    return range(*bounds)


MOST_BLOCKS = 33_000_000  # of 64 tokens, which an int32 counts; the cost of a few such requests none does


class Team:
    """The threads of the block: shared memory, what they find out together, and waiting for each other."""

    def __init__(self, log2_threads: int):
        self.size = 1 << log2_threads
        self.own, self.barrier = threading.local(), threading.Barrier(self.size)
        self.own.number = 0
        self.numbers = [0] * self.size
        self.memory = {
            name: [0] * size for name, size in (("scan", self.size), ("stored", self.size), ("notes", 1 << 16))
        }

    def run(self, work) -> None:
        """By all of them at once."""

        def one(number: int) -> None:
            self.own.number = number
            try:
                work()
            except BaseException:
                self.barrier.abort()  # nobody waits for this one
                raise

        with ThreadPoolExecutor(self.size) as pool:
            done = [pool.submit(one, number) for number in range(self.size)]
        errors = [error for each in done if (error := each.exception())]
        for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
            raise error

    def allocate(self, _):
        memory = {name: SimpleNamespace(get_tensor=lambda _, x=x: x) for name, x in self.memory.items()}
        return SimpleNamespace(**memory, of_warps=SimpleNamespace(get_tensor=lambda _: None))

    def told(self, tid: int, value: int) -> list[int]:
        """The numbers of all threads."""
        self.barrier.wait()
        self.numbers[tid] = value
        self.barrier.wait()
        return list(self.numbers)


def block_of(team: Team):
    """In the place of dsl_kernels/plan/block.py, which goes by warps."""

    class Block:
        def __init__(self, *_):
            pass

        def scan_add(self, scan: list[int], tid: int, value: int) -> int:
            numbers = team.told(tid, value)
            scan[tid] = sum(numbers[: tid + 1])
            team.barrier.wait()
            return sum(numbers)

        def reduce_max(self, tid: int, value: int) -> int:
            return max(team.told(tid, value))

    return Block


def stand_ins(team: Team | None = None) -> dict[str, ModuleType]:
    """The modules that the kernel and what it imports of core import; team: who runs it, if more than one thread."""
    team = team or Team(0)
    made = {
        name: ModuleType(name) for name in ("cuda", "cuda.bindings", "cuda.bindings.driver", "cutlass", "cutlass.cute")
    }
    made["cuda.bindings.driver"].CUstream = None
    cutlass, cute = made["cutlass"], made["cutlass.cute"]
    cutlass.Int32, cutlass.Int64, cutlass.Uint32 = integer(32), integer(64), integer(32, signed=False)
    cutlass.max, cutlass.min = builtins.max, builtins.min
    cutlass.range, cutlass.range_constexpr = loop, builtins.range
    cutlass.Constexpr, cutlass.Boolean = int, bool
    cutlass.memory = SimpleNamespace(SmemAllocator=lambda: team)
    cutlass.cute = cute
    made["dsl_kernels.plan.block"] = SimpleNamespace(Block=block_of(team))
    cute.Tensor = list
    cute.jit = cute.kernel = lambda function: function
    cute.make_layout = lambda _: None
    cute.make_tensor = lambda pointer, _: pointer
    cute.arch = SimpleNamespace(
        thread_idx=lambda: (team.own.number, 0, 0),
        sync_threads=team.barrier.wait,
        griddepcontrol_wait=lambda: None,
        griddepcontrol_launch_dependents=lambda: None,
    )
    return made


@pytest.fixture(scope="module", params=[0, 3], ids=["a thread", "threads"])
def plan(request):
    """The module, and who runs it."""
    team = Team(request.param)
    names = [
        "dsl_kernels.plan.kernel",
        "dsl_kernels.plan.apart",
        "dsl_kernels.plan.filling",
        *(f"dsl_kernels.core.{name}" for name in ("attended", "pieces", "schedule", "threads")),
    ]
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.delitem(sys.modules, name, raising=False)
        for name, module in stand_ins(team).items():
            patch.setitem(sys.modules, name, module)
        module = importlib.import_module("dsl_kernels.plan.kernel")
        module.LOG2_THREADS, module.THREADS = request.param, team.size
        module.team = team
        yield module
        for name in names:
            sys.modules.pop(name, None)


def run(module, limits: schedule.Limits, tiling: schedule.Tiling, **given) -> schedule.Schedule:
    """What the kernel writes."""
    cuts = Pointer([-1] * (schedule.places(tiling)[0] // 4))
    batch = given["batch"]
    costs, first_slot = Pointer([-1] * (batch + 1)), Pointer([-1] * (tiling.num_parts + 2))
    values = vars(limits) | vars(tiling) | given
    values |= {
        "cuts": cuts,
        "cost_before": costs,
        "first_slot": first_slot,
        "tiles_per_request": tiling.columns,
        "by_tile_major": schedule.divisor(tiling.columns if tiling.request_major else batch),
        "by_tiles_per_head": schedule.divisor(tiling.tiles_per_head),
        "by_head_chunks": schedule.divisor(tiling.head_chunks),
        "by_block_heads": schedule.divisor(tiling.block_heads),
        "by_small_piece": schedule.divisor(max(1, tiling.piece_units + tiling.piece_overhead)),
        "by_large_piece": schedule.divisor(max(1, 2 * tiling.piece_units + tiling.piece_overhead)),
    }

    def work() -> None:
        kernel = module.Plan(VARIANTS[0])
        kernel.storage = None
        kernel.kernel(tuple(values[p.name] for p in PARAMS))

    module.team.run(work)
    slots = np.array(first_slot) if tiling.piece_units else None
    return schedule.Schedule(np.array(cuts).reshape(-1, 2), np.array(costs), slots)


@pytest.mark.parametrize("varlen", [False, True], ids=["fixed", "varlen"])
def test_cuts_apart_are_those_of_the_definition(plan, varlen):
    """Items of two kinds that launches of their own attend."""
    draw = np.random.default_rng(varlen)
    for number in range(60):
        batch, s_q, h_q = int(draw.integers(1, 80)), int(draw.choice([1, 2, 5])), int(draw.choice([1, 64, 65, 128]))
        limits = sparse_limits(int(draw.choice([1, 100])), h_q, str(draw.choice(["bf16", "v32"])), 132)
        capacities = [int(draw.choice([1, 64, 100, 2048, 70_000])) for _ in range(2)]
        spread = schedule.SPREADS[number % len(schedule.SPREADS)]
        lengths = [schedule.draw_lengths(draw, spread, batch, most) for most in capacities]
        offsets, total_q = Pointer(), 0
        if varlen:
            drawn, total_q = schedule.draw_offsets(draw, batch, s_q)
            offsets = Pointer(map(int, drawn))
        num_splits, invariant = int(draw.choice([0, 0, 1, 3, 32, 1024])), bool(draw.integers(2))
        most = tuple(schedule.ceil(capacity, 64) for capacity in capacities)
        tiling = schedule.tile(
            limits, batch=batch, s_q=s_q, h_q=h_q, h_kv=1, max_blocks=sum(most), num_splits=num_splits, varlen=varlen,
            total_q=total_q, batch_invariant=invariant, own_items=True, apart=most,
        )  # fmt: skip
        if tiling.num_parts > 20_000:
            continue
        given = [bool(draw.integers(3)) for _ in capacities]  # without lengths all are the capacity
        found = run(
            plan, limits, tiling, batch=batch, s_q=s_q, lengths=Pointer(map(int, lengths[0] if given[0] else ())),
            capacity=capacities[0], extra_lengths=Pointer(map(int, lengths[1] if given[1] else ())),
            extra_capacity=capacities[1], cu_seqlens_q=offsets, total_q=total_q, window=0,
        )  # fmt: skip
        units = tuple(
            schedule.units(limits, lengths[kind] if given[kind] else [capacities[kind]] * batch, capacities[kind])
            for kind in range(2)
        )
        np.testing.assert_array_equal(found.cuts, schedule.schedule_apart(tiling, units))


@pytest.mark.parametrize("varlen", [False, True], ids=["fixed", "varlen"])
@pytest.mark.parametrize("mode", ["balanced", "forced", "batch invariant"])
def test_cuts_are_those_of_the_definition(plan, mode, varlen):
    draw = np.random.default_rng((len(mode), varlen))
    for number in range(60):
        # a request a thread, or several
        batch = int(draw.choice([draw.integers(1, 9), draw.integers(9, 200)]))
        s_q, h_kv = int(draw.choice([1, 2, 3, 5])), int(draw.choice([1, 1, 2, 4]))
        max_blocks = int(draw.choice([1, 2, 3, 4, 64, 3126, 3126 if mode == "batch invariant" else MOST_BLOCKS]))
        extents = {"batch": batch, "s_q": s_q, "h_q": h_kv * int(draw.choice([1, 16, 64, 65, 128])), "h_kv": h_kv}
        extra_capacity = int(draw.choice([0, 0, 1, 64, 100, 3000]))  # items of a second kind, in units of their own
        most_units = max_blocks + -(-extra_capacity // 64)
        extents |= {"max_blocks": most_units, "varlen": varlen, "batch_invariant": mode == "batch invariant"}
        num_splits = int(draw.choice([1, 2, 7, 32])) if mode == "forced" else 0
        limits = schedule.hopper(int(draw.choice([132, 114, 1])))
        spread = schedule.SPREADS[number % len(schedule.SPREADS)]
        lengths = schedule.draw_lengths(draw, spread, batch, 64 * max_blocks)
        extra_lengths = schedule.draw_lengths(draw, spread, batch, extra_capacity)
        window = int(draw.choice([0, 0, 1, 64, 1000])) if mode == "balanced" and extra_capacity == 0 else 0
        given, extra_given = bool(draw.integers(8)), bool(draw.integers(3))  # without lengths all are the capacity
        offsets, total_q, tokens = Pointer(), 0, None
        if varlen:
            drawn, total_q = schedule.draw_offsets(draw, batch, s_q)
            offsets, tokens = Pointer(map(int, drawn)), schedule.query_tokens(drawn, total_q, s_q)
        tiling = schedule.tile(limits, **extents, num_splits=num_splits, total_q=total_q)
        if tiling.num_parts > 20_000:
            continue
        found = run(
            plan, limits, tiling, batch=batch, s_q=s_q, lengths=Pointer(map(int, lengths if given else ())),
            capacity=64 * max_blocks, extra_lengths=Pointer(map(int, extra_lengths if extra_given else ())),
            extra_capacity=extra_capacity, cu_seqlens_q=offsets, total_q=total_q, window=window,
        )  # fmt: skip
        lengths = np.clip(lengths, 0, 64 * max_blocks) if given else np.full(batch, 64 * max_blocks)
        if window > 0:  # units are counted from that in which the first query token's window begins
            others = np.maximum(tokens if varlen else s_q, 1) - 1
            lengths = lengths - np.maximum(lengths - others - window, 0) // 64 * 64
        units = schedule.units(limits, lengths, 64 * max_blocks)
        units += schedule.units(limits, extra_lengths if extra_given else [extra_capacity] * batch, extra_capacity)
        wanted = schedule.schedule(limits, tiling, units, tokens)
        schedule.same(found, wanted, f"{extents}, {num_splits}, {spread}")
