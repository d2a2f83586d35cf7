"""The two ceilings of the machine, measured: read bandwidth and the rate of a large bf16 matrix product.

The limit of a problem follows from them. It is a yardstick: data that take less power than random ones let a product
run faster.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import timing
import torch
import triton
import triton.language as tl
from problem import Problem

READ_BYTES = 2 << 30
PRODUCT = 8192


@triton.jit
def _read(source, sink, BLOCK: tl.constexpr, PER: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK,), tl.int32)
    for i in range(PER):
        total ^= tl.load(source + (program * PER + i) * BLOCK + tl.arange(0, BLOCK))
    tl.store(sink + program, tl.xor_sum(total, 0))


def read_bandwidth() -> float:
    """Bytes a second of the fastest of a few read-only kernels over 2 GiB of random data."""
    words = READ_BYTES // 4
    source = torch.randint(-(2**31), 2**31 - 1, (words,), dtype=torch.int32, device="cuda")
    best = float("inf")
    for block, warps, per in ((4096, 8, 8), (8192, 8, 8), (8192, 4, 16), (16384, 8, 4)):
        grid = words // (block * per)
        sink = torch.empty(grid, dtype=torch.int32, device="cuda")

        def call(block=block, warps=warps, per=per, grid=grid, sink=sink):
            _read[(grid,)](source, sink, BLOCK=block, PER=per, num_warps=warps)

        replays = timing.Replays([call])
        best = min(best, statistics.median(replays.time() for _ in range(3)))
    return READ_BYTES / best * 1e6


def product_rate(dtype: torch.dtype, product: Callable[[torch.Tensor, torch.Tensor], object]) -> float:
    """FLOP a second of an 8192^3 product on random data: the median of calls so spaced that power is no limit."""
    a, b = (torch.randn(PRODUCT, PRODUCT, device="cuda").to(dtype) for _ in range(2))
    times = []
    for _ in range(12):
        time.sleep(0.02)
        times.append(timing.event_us(lambda: product(a, b)))
    return 2 * PRODUCT**3 / statistics.median(times[2:]) * 1e6


def bf16_rate() -> float:
    out = torch.empty(PRODUCT, PRODUCT, dtype=torch.bfloat16, device="cuda")
    return product_rate(torch.bfloat16, lambda a, b: torch.matmul(a, b, out=out))


def code_rate() -> float:
    """Of 8-bit codes, summed up as the tensor cores do."""
    one = torch.ones((), device="cuda")

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch._scaled_mm(a, b.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True)  # noqa: SLF001

    return product_rate(torch.float8_e4m3fn, product)


@dataclass(frozen=True)
class Ceilings:
    bandwidth: float  # bytes a second
    rate: float  # FLOP a second

    def us(self, p: Problem) -> float:
        """The limit of a problem."""
        return round(max(p.kv_bytes / self.bandwidth, p.flop / self.rate) * 1e6, 2)

    def facts(self) -> dict:
        """For a record."""
        return {"read_gbs": round(self.bandwidth / 1e9, 1), "product_tflops": round(self.rate / 1e12, 1)}


def measured() -> Ceilings:
    """Takes some ten seconds, most of them the compilation of the read kernels."""
    return Ceilings(read_bandwidth(), bf16_rate())
