"""Device time of calls: graph replays back to back, and single calls after L2 was flushed. Needs torch and a GPU."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

FLUSH_BYTES = 512 << 20  # several times any L2
MAX_CALLS = 200  # of a graph
WARM_ROUNDS = 10  # in which the GPU gets as warm as it stays
Call = Callable[[], object]


class Replays:
    """A CUDA graph of back-to-back calls that rotate over `calls` and take about target_us; time() replays it once."""

    def __init__(self, calls: Sequence[Call], target_us: float = 20_000.0) -> None:
        self._calls = calls  # what they hold is read in replays
        for call in calls[:2]:
            call()
        estimate = event_us(calls[0])  # launch included, so that short calls are repeated too seldom, not too often
        self.count = max(len(calls), min(MAX_CALLS, math.ceil(target_us / max(estimate, 1.0))))
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            for i in range(self.count):
                calls[i % len(calls)]()
        self.graph.replay()
        torch.cuda.synchronize()

    def time(self) -> float:
        """Microseconds a call."""
        return event_us(self.graph.replay) / self.count


def event_us(call: Call) -> float:
    """Microseconds between events around one call."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) * 1e3


def cold_us(calls: Sequence[Call], repeats: int = 11) -> float:
    """Median of single calls, launch included, each after L2 was overwritten."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    times = []
    for i in range(repeats + 2):
        flush.zero_()  # long enough to hide the host's share of the call
        times.append(event_us(calls[i % len(calls)]))
    return statistics.median(times[2:])


def host_us(call: Call, count: int = 200, rounds: int = 7) -> float:
    """Median host time of an asynchronous call."""
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            call()
        times.append((time.perf_counter() - start) / count * 1e6)
    torch.cuda.synchronize()
    return statistics.median(times)


def order(names: Sequence[str], i: int) -> Sequence[str]:
    """Of contenders in round i: every second round begins with another one, and the one behind it goes backwards."""
    first = i // 2 % len(names)
    rotated = [*names[first:], *names[:first]]
    return rotated if i % 2 == 0 else rotated[::-1]


def alternate(graphs: Mapping[str, Replays], rounds: int) -> dict[str, list[float]]:
    """Times of every contender, in alternating rounds: power and clocks drift, so only neighbours compare. What ran
    before leaves its heat behind, so the order changes.
    """
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for i in range(rounds):
        for name in order(list(graphs), i):
            times[name].append(graphs[name].time())
    return times


def medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Of every contender."""
    return {name: statistics.median(values) for name, values in times.items()}


def spread(values: Sequence[float]) -> float:
    """(max - min) / median."""
    return (max(values) - min(values)) / statistics.median(values)
