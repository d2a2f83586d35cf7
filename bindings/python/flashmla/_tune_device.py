"""PyTorch on a GPU, which the tuner makes its tensors and CUDA graphs with; and times of calls."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flashmla._info import info
from flashmla.errors import UnsupportedError

Calls = Sequence[Callable[[], object]]
_ON_CPU = (
    "on the CPU there is nothing to tune: its work is cut by shapes alone, so that results do not depend on the machine"
)
_MOST_CALLS = 200  # of a graph


def torch_for(device_id: int) -> Any:
    """The module torch with that GPU as its current device. UnsupportedError where there is none."""
    facts = info()
    if facts["driver_version"] is None:
        raise UnsupportedError(f"no GPU: {facts['driver_error']}; {_ON_CPU}")
    if not any(kernel["target"] != "cpu" for kernel in facts["kernels"]):
        raise UnsupportedError(f"this library has no GPU kernels; {_ON_CPU}")
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise UnsupportedError("tuning makes tensors and CUDA graphs with PyTorch, which is not installed") from None
    if not torch.cuda.is_available() or not 0 <= device_id < torch.cuda.device_count():
        raise UnsupportedError(f"PyTorch sees no CUDA device {device_id}")
    torch.cuda.set_device(device_id)
    return torch


class Replays:
    """A CUDA graph of back-to-back calls that rotate over `calls` and take about `target_us`."""

    def __init__(self, torch: Any, calls: Calls, target_us: float) -> None:
        self._torch = torch
        self._calls = calls  # what they hold is read in replays
        for call in calls[:2]:
            call()
        once = min(self._event_us(calls[0]) for _ in range(2))
        self.count = max(len(calls), min(_MOST_CALLS, math.ceil(target_us / max(once, 1.0))))
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            for i in range(self.count):
                calls[i % len(calls)]()
        self._graph.replay()

    def _event_us(self, call: Callable[[], object]) -> float:
        begin, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e3

    def time(self) -> float:
        """Microseconds a call."""
        return self._event_us(self._graph.replay) / self.count


Times = dict[Any, list[float]]


def alternate(contenders: Mapping[Any, Any], rounds: int) -> Times:
    """Times of all in turn, round by round, every second one backwards: what ran before leaves its heat behind."""
    times: Times = {key: [] for key in contenders}
    for i in range(rounds):
        keys = list(contenders)
        first = i // 2 % len(keys)
        order = [*keys[first:], *keys[:first]]
        for key in order if i % 2 == 0 else reversed(order):
            times[key].append(contenders[key].time())
    return times
