"""PyTorch as the tuner sees it, but on the CPU: tensors lie there, and graphs are lists of calls."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import torch


class Event:
    def __init__(self, **_: Any) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, other: Event) -> float:
        return (other.at - self.at) * 1e3


class Graph:
    """Replays do nothing: there is nothing to capture."""

    def replay(self) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def _moved(function):
    def call(*arguments: Any, **options: Any) -> Any:
        if "device" in options:
            options["device"] = "cpu"
        return function(*["cpu" if one == "cuda" else one for one in arguments], **options)

    return call


class TorchOnCpu:
    cuda = SimpleNamespace(
        CUDAGraph=Graph,
        Event=Event,
        graph=lambda graph: graph,
        empty_cache=lambda: None,
        mem_get_info=lambda: (1 << 30, 1 << 30),
        get_device_properties=lambda _: SimpleNamespace(multi_processor_count=132),
        OutOfMemoryError=torch.cuda.OutOfMemoryError,
    )

    def __getattr__(self, name: str) -> Any:
        found = getattr(torch, name)
        return found if isinstance(found, (type, torch.dtype)) and name != "Generator" else _moved(found)
