"""float32 rate of this CPU: fused multiply-adds on registers, in all threads at once.

The loop is compiled for this very CPU, so it needs a C compiler (gcc or clang, or what CC names).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# 12 chains cover two multiply-adds a cycle of 4 to 6 cycles latency, and fit the 16 registers of AVX2.
CHAINS = 12
SOURCE = f"""
#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
typedef float vector __attribute__((vector_size(BYTES)));
int floats(void) {{ return BYTES / 4; }}
float run(long rounds, float factor) {{
  vector sums[{CHAINS}];
  for (int k = 0; k < {CHAINS}; ++k) sums[k] = (vector){{k}}; /* of equal chains the compiler keeps one */
  for (long i = 0; i < rounds; ++i)
#pragma GCC unroll {CHAINS}
    for (int k = 0; k < {CHAINS}; ++k) sums[k] = sums[k] * factor + factor;
  for (int k = 1; k < {CHAINS}; ++k) sums[0] += sums[k];
  return sums[0][0];
}}
"""
ROUNDS = 5_000_000  # some 10 ms
REPEATS = 20


def can_compile() -> bool:
    return shutil.which(os.environ.get("CC", "gcc")) is not None


def gflops(threads: int) -> float:
    """10^9 float32 operations a second, a multiply-add being two: the best of some repeats."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "peak.c", Path(folder) / "peak.so"
        source.write_text(SOURCE)
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC"]
        subprocess.run([os.environ.get("CC", "gcc"), *flags, source, "-o", library], check=True)
        loop = ctypes.CDLL(str(library))
    loop.run.argtypes, loop.run.restype = [ctypes.c_long, ctypes.c_float], ctypes.c_float

    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(REPEATS):
            start = time.perf_counter()
            list(pool.map(lambda _: loop.run(ROUNDS, 0.5), range(threads)))
            best = min(best, time.perf_counter() - start)
    return 2 * threads * ROUNDS * CHAINS * loop.floats() / best / 1e9
