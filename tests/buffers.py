"""Tensors inside larger poisoned buffers: whatever is written outside a tensor's own elements is seen afterwards."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.lib.stride_tricks import as_strided

DTYPES = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "uint8": np.dtype(np.uint8),
    "int8": np.dtype(np.int8),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
}
ALIGNMENT = 16  # bytes: the library's rule for q, kv_cache, out and scratch
GUARD = 4096  # bytes before and after every tensor: more than three rows of 576 two-byte elements
# Set by test_reads_outside.py in its subprocesses: a fence that no read survives takes the place of the guard behind.
FENCED = "FLASHMLA_TEST_FENCE" in os.environ
POISON = 0xFF  # as a float of any size a NaN, as an int32 -1


@dataclass(frozen=True)
class Layout:
    """Where the elements of a tensor lie: the memory order of its dimensions, gaps between them, and a first offset.

    A granule is what the library lets a stride be a multiple of: 16 bytes for rows of latents, one element elsewhere.
    """

    order: tuple[int, ...] = ()  # dimensions from slowest to fastest; those not listed follow in their own order
    gaps: tuple[int, ...] = ()  # granules left free after each step of a dimension, by dimension; missing ones are 0
    offset: int = 0  # granules before the first element

    def strides(self, shape: tuple[int, ...], granule: int) -> tuple[int, ...]:
        """Strides in elements; the innermost dimension of a latent row gets 1."""
        order = [*self.order, *(d for d in range(len(shape)) if d not in self.order)]
        strides = [0] * len(shape)
        step = 1
        for d in reversed(order):
            gap = self.gaps[d] if d < len(self.gaps) else 0
            strides[d] = -(-step // granule) * granule + gap * granule if step > 1 or gap else step
            step = strides[d] * max(shape[d], 1)
        return tuple(strides)


COMPACT = Layout()


@dataclass(frozen=True)
class Pages(Layout):
    """Pages of bytes, each contiguous, with `gaps[0]` granules between them."""

    def strides(self, shape: tuple[int, ...], granule: int) -> tuple[int, ...]:
        inner = COMPACT.strides(shape[1:], 1)
        page = -(-math.prod(shape[1:]) // granule) * granule
        return (page + granule * (self.gaps[0] if self.gaps else 0), *inner)


PAGES = Pages()


def host_bytes(size: int) -> np.ndarray:
    """`size` poisoned bytes of host memory."""
    return fenced_bytes(size) if FENCED else aligned_bytes(size)


def aligned_bytes(size: int) -> np.ndarray:
    """`size` poisoned bytes that begin on a 64-byte boundary, like an allocator's."""
    buffer = np.empty(size + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    buffer = buffer[start : start + size]
    buffer[:] = POISON
    return buffer


def fenced_bytes(size: int) -> np.ndarray:
    """`size` poisoned bytes with a page behind them that kills the process which touches it."""
    used = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    region = np.frombuffer(mmap.mmap(-1, used + mmap.PAGESIZE), np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    no_access = 0  # PROT_NONE; the mmap module does not export it
    if libc.mprotect(ctypes.c_void_p(region.ctypes.data + used), mmap.PAGESIZE, no_access):
        raise OSError(ctypes.get_errno(), "mprotect")
    buffer = region[used - size : used]
    buffer[:] = POISON
    return buffer


class Guarded:
    """One tensor on a backend, inside a poisoned buffer, with a copy of what the buffer held at first."""

    def __init__(self, adapter, shape, dtype: str, layout: Layout = COMPACT, granule: int = 1, values=None):
        self.adapter, self.shape, self.dtype = adapter, tuple(shape), DTYPES[dtype]
        item = self.dtype.itemsize
        self.strides = layout.strides(self.shape, granule)
        self.offset = GUARD + layout.offset * granule * item
        span = (
            1 + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True)) if 0 not in shape else 0
        )
        self.nbytes = span * item
        # A fence stands behind the last byte; but pages of bytes that end anywhere must begin aligned.
        step, behind = (granule * item, 0) if FENCED else (64, GUARD)
        size = -(-(self.offset + self.nbytes + behind) // step) * step
        self.before = None  # poison everywhere
        if values is None:
            self.buffer = adapter.poisoned(size)
        else:
            host = host_bytes(size)
            self._elements(host)[...] = values
            self.before = host.copy()
            self.buffer = adapter.place(host)
        self.tensor = adapter.view(self.buffer, dtype, self.shape, self.strides, self.offset)

    def _elements(self, host: np.ndarray) -> np.ndarray:
        """The tensor's elements as a view into the bytes of its buffer."""
        return as_strided(host[self.offset :].view(self.dtype), self.shape, self._byte_strides())

    def values(self) -> np.ndarray:
        """What the tensor holds now, as a compact array."""
        return self._elements(self.adapter.fetch(self.buffer)).copy()

    def check_only_elements_written(self, name: str) -> None:
        """Raises AssertionError if a byte of the buffer that is not the tensor's has lost its poison."""
        end = self.offset + self.nbytes
        outside = [self.adapter.fetch(part) for part in (self.buffer[: self.offset], self.buffer[end:])]
        if self.nbytes > self.dtype.itemsize * math.prod(self.shape):
            gaps = self.adapter.fetch(self.buffer).copy()
            self._elements(gaps)[...] = np.frombuffer(bytes([POISON]) * self.dtype.itemsize, self.dtype)
            outside.append(gaps[self.offset : end])
        changed = sum(np.count_nonzero(part != POISON) for part in outside)
        assert not changed, f"{name}: {changed} bytes beside its elements were written"

    def remember(self) -> None:
        """What the buffer holds now is what check_unchanged() expects."""
        self.before = self.adapter.fetch(self.buffer).copy()

    def check_unchanged(self, name: str) -> None:
        """Raises AssertionError if any byte of the buffer is not as it was."""
        now = self.adapter.fetch(self.buffer)
        same = np.all(now == POISON) if self.before is None else np.array_equal(now, self.before)
        assert same, f"{name}: bytes that may not be written were changed"

    def _byte_strides(self) -> list[int]:
        return [step * self.dtype.itemsize for step in self.strides]
