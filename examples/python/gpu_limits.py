"""How near to the limits of the GPU the decode calls of a step ran."""

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from stand_in_model import D_QK, D_V

REPLAYS = 20
BANDWIDTH_BYTES = 2 << 30  # far more than the L2 cache holds
MATMUL = 8192  # rows and columns of the product that shows the arithmetic rate


@dataclasses.dataclass
class LimitMeter:
    """Collects device times of decode calls beside the least time the same work can take on this GPU."""

    arrays: object
    bytes_per_second: float = 0.0
    flop_per_second: float = 0.0
    seconds: float = 0.0
    least_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.bytes_per_second = self._read_bandwidth()
        self.flop_per_second = self._matmul_rate()

    def _read_bandwidth(self) -> float:
        """The better of reading (a sum) and copying, which moves each byte twice."""
        source = self.arrays.full((BANDWIDTH_BYTES // 2,), 0.0)
        target = self.arrays.full((BANDWIDTH_BYTES // 2,), 0.0)

        def copy() -> None:
            target[:] = source

        source.sum()
        copy()
        rates = (
            BANDWIDTH_BYTES / self.arrays.seconds(source.sum, 10),
            2 * BANDWIDTH_BYTES / self.arrays.seconds(copy, 10),
        )
        return max(rates)

    def _matmul_rate(self) -> float:
        """The best of bursts with pauses between them: without, the power limit would lower the clock."""
        rows = np.random.default_rng(0).standard_normal((MATMUL // 8, MATMUL), np.float32)
        a = self.arrays.cast(self.arrays.from_host(np.tile(rows, (8, 1))))
        best = float("inf")
        for _ in range(6):
            best = min(best, self.arrays.seconds(lambda: a @ a, 3))
            self.arrays.synchronize()
            time.sleep(0.02)
        return 2 * MATMUL**3 / best

    def measure(self, decode_all_layers: Callable[[], object], layers: int, heads: int, tokens: int) -> None:
        """Times one step's decode calls, which read `tokens` cached tokens in each layer, as a replayed CUDA graph."""
        decode_all_layers()  # so that the framework has the scratch at hand: a capture may not allocate
        replay = self.arrays.captured(decode_all_layers)
        replay()
        self.seconds += self.arrays.seconds(replay, REPLAYS)
        kv_bytes = layers * tokens * D_QK * 2
        flop = layers * tokens * heads * 2 * (D_QK + D_V)
        self.least_seconds += max(kv_bytes / self.bytes_per_second, flop / self.flop_per_second)

    @property
    def share(self) -> float:
        return self.least_seconds / self.seconds if self.seconds else 0.0
