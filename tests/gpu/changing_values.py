"""A program: calls run while what they read on the device is overwritten: lengths, query offsets, page numbers, indices
and schedules.

Results are unspecified then, but every call must end, fault nowhere, write nothing beside its outputs and scratch, and
leave the next call right. Each operation has its steps in ops/<operation>/hostile.py; arguments are the operations to
run, all if there are none. Prints "right after changes" at the end; a hang or a fault would hold or end this process,
so its caller gives it a time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import flashmla
import operations
from backends import TorchAdapter
from buffers import ALIGNMENT, Guarded

CALLS, CHANGES_A_CALL, VALUES = 200, 6, 32
SCHEDULE = "schedule"


def garbage(shape: tuple[int, ...], high: int, seed: int) -> torch.Tensor:
    """VALUES tensors in one, from 0 to `high`, but for a third of their entries, which are zeros or extreme."""
    made = torch.Generator(device="cuda").manual_seed(seed)
    values = torch.randint(0, high, (VALUES, *shape), dtype=torch.int32, device="cuda", generator=made)
    odd = torch.tensor([0, 0, 1, -1, high, -(2**31), 2**31 - 1], dtype=torch.int32, device="cuda")
    drawn = torch.randint(0, 21, values.shape, device="cuda", generator=made)
    return torch.where(drawn < len(odd), odd[drawn.clamp(max=len(odd) - 1)], values)


@dataclass
class Step:
    """A call of one shape, and what of it is overwritten: int32 tensors, and what their values are usually below."""

    label: str
    operation: Callable[..., Any]
    inputs: tuple[torch.Tensor, ...]
    options: dict[str, Any]
    planner: Callable[..., Any]
    plan_inputs: tuple[torch.Tensor, ...]
    plan_options: dict[str, Any]
    victims: dict[str, tuple[torch.Tensor, int]]
    units: int  # of a request, at most

    def guarded(self, shape: tuple[int, ...], dtype: str) -> Guarded:
        granule = ALIGNMENT if dtype == "uint8" else 8
        return Guarded(TorchAdapter("cuda"), shape, dtype, granule=granule)

    def place(self) -> None:
        """Outputs, scratch and a plan."""
        of_plan = getattr(flashmla, f"{self.planner.__name__}_size")
        of_call = getattr(flashmla, f"{self.operation.__name__}_workspace_size")
        self.buffer = self.guarded((of_plan(*self.plan_inputs, **self.plan_options),), "uint8")
        self.plan = self.make_plan()
        needed = [of_call(*self.inputs, **self.options, plan=plan) for plan in (None, self.plan)]
        q = self.inputs[0]
        self.outputs = {
            "out": self.guarded((*q.shape[:-1], 512), "bfloat16"),
            "lse": self.guarded((*q.shape[:-3], q.shape[-2], q.shape[-3]), "float32"),
            "workspace": self.guarded((max(needed),), "uint8"),
        }

    def make_plan(self) -> flashmla.Plan:
        return self.planner(*self.plan_inputs, **self.plan_options, buffer=self.buffer.tensor)

    def run(self, plan: flashmla.Plan | None) -> None:
        """The call, with a plan or with a schedule of its own."""
        outputs = {name: one.tensor for name, one in self.outputs.items()}
        self.operation(*self.inputs, **self.options, **outputs, plan=plan)

    def results(self) -> tuple[torch.Tensor, ...]:
        """Of a call with a good plan."""
        self.run(self.make_plan())
        return tuple(self.outputs[name].tensor.clone() for name in ("out", "lse"))

    def victim(self, name: str) -> tuple[torch.Tensor, int]:
        if name == SCHEDULE:
            size = self.buffer.tensor.numel() // 4 * 4
            return self.buffer.tensor[:size].view(torch.int32), 2 * self.units
        return self.victims[name]

    def change(self, name: str) -> None:
        """Calls while this victim changes, and one after that."""
        victim, high = self.victim(name)
        wanted = self.results()
        kept, values = victim.clone(), garbage(tuple(victim.shape), high, 7)
        values[::2] = kept  # back and forth between what was planned and anything
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        for call in range(CALLS):
            self.run(self.plan if name == SCHEDULE or call % 2 else None)
            with torch.cuda.stream(side):
                for change in range(CHANGES_A_CALL):
                    victim.copy_(values[(call * CHANGES_A_CALL + change) % VALUES], non_blocking=True)
        torch.cuda.synchronize()
        victim.copy_(kept)
        for kind, guarded in (*self.outputs.items(), ("plan", self.buffer)):
            guarded.check_only_elements_written(f"{self.label}, {name}: {kind}")
        again = self.results()
        assert all(torch.equal(a, b) for a, b in zip(again, wanted, strict=True)), (self.label, name)


def main() -> None:
    modules = operations.modules("hostile")
    for operation in sys.argv[1:] or modules:
        for step in modules[operation].steps():
            step.place()
            for name in (*step.victims, SCHEDULE):
                step.change(name)
                print(operation, step.label, name, flush=True)
    print("right after changes")


if __name__ == "__main__":
    main()
