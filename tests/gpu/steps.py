"""Decode steps as torch tensors on the current CUDA device, whose contents can be changed in place."""

from __future__ import annotations

import numpy as np
import torch

import calls
from backends import TorchAdapter
from cases import Case, Data, make_data

# Two requests of several pages, more query rows than one tile holds, two KV heads.
STEP = Case(
    s_q=2, h_q=96, h_kv=2, num_blocks=14, max_blocks=6, lengths=(300, 71), causal=True, given=("lse",), route="torch"
)


def to_numpy(tensor) -> np.ndarray:
    return TorchAdapter("cuda").to_numpy(tensor)


class Step:
    """The tensors of a case, and their numbers for the oracle."""

    def __init__(self, case: Case, backend):
        self.case, self.backend = case, backend
        self.data = make_data(case)
        self.tensors = calls.Tensors(case, backend, self.data)
        self.inputs = self.tensors.package_inputs()

    def enqueue_change(self, seed: int, lengths) -> None:
        """New numbers for the same tensors, copied on the current stream."""
        self.enqueue_copy(Step(self.case.but(seed=seed, lengths=tuple(lengths)), self.backend))

    def enqueue_copy(self, other: Step) -> None:
        """The numbers of another step of the same shapes, copied on the current stream."""
        for mine, theirs in zip(self.inputs, other.inputs, strict=True):
            mine.copy_(theirs, non_blocking=True)
        self.data = other.data

    def check(self, out, lse, data: Data | None = None) -> None:
        """The result is the oracle's; waits for the current stream."""
        calls.check_result(self.case, data or self.data, calls.Result(to_numpy(out), to_numpy(lse)))


def wait_long() -> None:
    """Keeps the current stream busy for about 0.1 s, so that work out of order is seen."""
    torch.cuda._sleep(200_000_000)
