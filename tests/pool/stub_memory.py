"""Caches on the device of the stub driver, whose streams do their work as late as they may. For processes that
stub_driver/stub.py starts."""

from __future__ import annotations

import ctypes

import numpy as np

from pool.device_array import STREAM, DeviceArray
from stub_driver.host import driver, enter

enter(0)


def copied(to: int, from_: int, size: int, stream: int = STREAM) -> None:
    assert driver.cuMemcpyAsync(*map(ctypes.c_uint64, (to, from_, size, stream))) == 0


class StubMemory:
    """`write` and `look_at` enqueue; `read` waits for all streams."""

    def __init__(self) -> None:
        self.kept: list[np.ndarray] = []  # what copies read when they are done
        self.seen: list[tuple[np.ndarray, np.ndarray]] = []  # rows that work on the stream reads, and should read

    def made(self, array: np.ndarray) -> DeviceArray:
        return DeviceArray(array)

    def host(self, array: np.ndarray) -> np.ndarray:
        return array

    def write(self, layer: DeviceArray, rows: np.ndarray, slots, page_size: int) -> None:
        self.kept.append(rows)
        for row, slot in zip(rows, slots, strict=True):
            place = layer.array[slot // page_size, slot % page_size]
            copied(place.ctypes.data, row.ctypes.data, row.nbytes)

    def look_at(self, layer: DeviceArray, pages: list[int], rows: np.ndarray) -> None:
        """As attention does: reads the rows of a sequence."""
        found = np.empty((len(pages), *layer.array.shape[1:]), "float32")
        for page, place in zip(pages, found, strict=True):
            copied(place.ctypes.data, layer.array[page].ctypes.data, place.nbytes)
        self.seen.append((found, rows))

    def poison(self, layer: DeviceArray, pages: list[int]) -> None:
        driver.stub_finish()  # swaps may be reading what is free
        layer.array[pages] = np.nan

    def read(self, tensor) -> np.ndarray:
        driver.stub_finish()
        for found, rows in self.seen:
            assert (found.reshape(-1, rows.shape[1])[: len(rows)] == rows).all(), "work read what was not there yet"
        self.seen.clear()
        return getattr(tensor, "array", tensor).copy()
