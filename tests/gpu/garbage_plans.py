"""Decodes by plans whose buffer holds anything at all, then by good ones again. Run by test_device_values.py.

A process of its own, because a fault or a hang of a kernel would take every later test with it.
"""

from __future__ import annotations

import numpy as np
import torch

import backends
from gpu.steps import STEP
from ops.dense_decode import calls

INT32 = 2**31


def garbage(draw, kind: int, size: int, tiles: int, pages: int) -> np.ndarray:
    """int32 values for a plan's buffer."""
    pairs = np.stack([draw.integers(-2, tiles + 3, size // 2 + 1), draw.integers(-2, pages + 3, size // 2 + 1)], 1)
    return (
        draw.integers(-INT32, INT32, size),
        pairs.ravel()[:size],  # plausible, but in no order
        np.sort(pairs, axis=0).ravel()[:size],  # in order, but not of this call
        pairs[::-1].ravel()[:size],
        np.full(size, draw.choice([-INT32, -1, 0, 1, INT32 - 1, tiles, tiles - 1])),
    )[kind].astype(np.int32)


def main() -> None:
    backend, why_not = backends.gpu()
    assert backend is not None, why_not
    draw = np.random.default_rng(0)
    for case in (
        STEP,
        STEP.but(h_q=16, h_kv=1, s_q=1, lengths=(300, 5, 64, 0, 384)),
        STEP.but(dtype="float16", h_q=128, h_kv=1, s_q=3),
        STEP.but(s_q=3, cu_seqlens_q=(0, 3, 5), total_q=6, page_size=16, num_blocks=60, max_blocks=24),
        STEP.but(lengths=(3000, 71), num_blocks=60, max_blocks=50, batch_invariant=True),
        STEP.but(h_q=16, h_kv=1, s_q=1, lengths=(40_000, 71), num_blocks=700, max_blocks=640, batch_invariant=True),
    ):
        for num_splits in (0,) if case.batch_invariant else (0, 1, 5):
            routed = case.but(route="c", plan="fresh", num_splits=num_splits)
            tensors = calls.Tensors(routed, backend)
            plan = calls.make_plan(tensors)
            good = calls.decode(tensors, plan)
            calls.check_result(routed, tensors.data, good)
            words = plan.buffer.tensor.view(torch.int32)
            kept = words.clone()
            for kind in range(5):
                for _ in range(4):
                    tiles = len(case.lengths) * case.h_kv * 2
                    words.copy_(torch.from_numpy(garbage(draw, kind, words.numel(), tiles, case.max_blocks)))
                    plan.buffer.remember()
                    calls.decode(tensors, plan)  # any rows; nothing beside its outputs and scratch is written
            words.copy_(kept)
            plan.buffer.remember()
            assert calls.decode(tensors, plan).bits() == good.bits()
    print("right after garbage")


if __name__ == "__main__":
    main()
