"""Device time of calls: graph replays back to back, and single calls after L2 was flushed. Needs torch and a GPU."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence

import torch

FLUSH_BYTES = 512 << 20  # several times any L2
Call = Callable[[], object]


class Replays:
    """A CUDA graph of back-to-back calls that rotate over `calls`; time() replays it once."""

    def __init__(self, calls: Sequence[Call], estimate_us: float, target_us: float = 20_000.0) -> None:
        self.count = max(len(calls), min(200, math.ceil(target_us / max(estimate_us, 1.0))))
        for call in calls[:2]:
            call()
        torch.cuda.synchronize()
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


def alternate(
    contenders: dict[str, Sequence[Call]], estimates: dict[str, float], rounds: int
) -> dict[str, list[float]]:
    """Times of every contender, in alternating rounds: power and clocks drift, so only neighbours compare."""
    replays = {name: Replays(calls, estimates[name]) for name, calls in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, graph in replays.items():
            times[name].append(graph.time())
    return times
