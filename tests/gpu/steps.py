"""Decode steps as torch tensors on the current CUDA device, whose contents can be changed in place."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import torch

from backends import TorchAdapter
from ops.dense_decode import calls
from ops.dense_decode.case import Case, Data, make_data

# Two requests of several pages, more query rows than one tile holds, two KV heads.
STEP = Case(
    s_q=2, h_q=96, h_kv=2, num_blocks=14, max_blocks=6, lengths=(300, 71), causal=True, given=("lse",), route="torch"
)


def to_numpy(tensor) -> np.ndarray:
    return TorchAdapter("cuda").to_numpy(tensor)


def capture(work):
    """The graph of `work` and what it returned. Kernels are loaded before, as every framework's warm-up does."""
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph, result


class Step:
    """The tensors of a case, and their numbers for the oracle."""

    def __init__(self, case: Case, backend):
        self.case, self.backend = case, backend
        self.data = make_data(case)
        self.tensors = calls.Tensors(case, backend, self.data)
        self.inputs = self.tensors.package_inputs()
        self.options = self.tensors.package_options()  # causal, cu_seqlens_q and the like

    def enqueue_change(self, seed: int, lengths, **facts) -> None:
        """New numbers for the same tensors, copied on the current stream; `facts`: what else changes of the case."""
        self.enqueue_copy(Step(self.case.but(seed=seed, lengths=tuple(lengths), **facts), self.backend))

    def enqueue_copy(self, other: Step) -> None:
        """The numbers of another step of the same shapes, copied on the current stream."""
        for name, mine in self.tensors.guarded.items():
            mine.tensor.copy_(other.tensors.guarded[name].tensor, non_blocking=True)
        self.case, self.data = other.case, other.data

    def check(self, out, lse, data: Data | None = None) -> None:
        """The result is the oracle's; waits for the current stream."""
        result = calls.Result(to_numpy(out), to_numpy(lse))
        data = data or self.data
        calls.check_result(self.case, data, calls.without_free_rows(self.case, result, data))


def run_alone(program: str) -> str:
    """What the program prints in a process of its own, in which no kernel was loaded."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, env=environment, check=True, timeout=30, stdout=subprocess.PIPE, text=True)
    return ran.stdout


def wait_long() -> None:
    """Keeps the current stream busy for about 0.1 s, so that work out of order is seen."""
    torch.cuda._sleep(200_000_000)
