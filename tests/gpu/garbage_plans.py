"""A program: calls by plans whose buffer holds anything at all, then by good ones again.

Each operation has its cases in ops/<operation>/hostile.py; arguments are the operations to run, all if there are none.
A process of its own, because a fault or a hang of a kernel would take every later test with it.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

import backends
import operations

INT32 = 2**31


def garbage(draw, kind: int, size: int, tiles: int, units: int) -> np.ndarray:
    """int32 values for a plan's buffer."""
    pairs = np.stack([draw.integers(-2, tiles + 3, size // 2 + 1), draw.integers(-2, units + 3, size // 2 + 1)], 1)
    return (
        draw.integers(-INT32, INT32, size),
        pairs.ravel()[:size],  # plausible, but in no order
        np.sort(pairs, axis=0).ravel()[:size],  # in order, but not of this call
        pairs[::-1].ravel()[:size],
        np.full(size, draw.choice([-INT32, -1, 0, 1, INT32 - 1, tiles, tiles - 1])),
    )[kind].astype(np.int32)


def spoil(calls, case, backend, draw, tiles: int, units: int) -> None:
    """Calls of one case by plans of garbage, and one by its plan."""
    tensors = calls.Tensors(case, backend)
    plan = calls.make_plan(tensors)
    good = calls.decode(tensors, plan)
    calls.check_result(case, tensors.data, good)
    words = plan.buffer.tensor.view(torch.int32)
    kept = words.clone()
    for kind in range(5):
        for _ in range(4):
            words.copy_(torch.from_numpy(garbage(draw, kind, words.numel(), tiles, units)))
            plan.buffer.remember()
            calls.decode(tensors, plan)  # any rows; nothing beside its outputs and scratch is written
    words.copy_(kept)
    plan.buffer.remember()
    assert calls.decode(tensors, plan).bits() == good.bits()


def main() -> None:
    backend, why_not = backends.gpu()
    assert backend is not None, why_not
    draw, calls, modules = np.random.default_rng(0), operations.modules("calls"), operations.modules("hostile")
    for operation in sys.argv[1:] or modules:
        for number, (case, tiles, units) in enumerate(modules[operation].planned()):
            for num_splits in (0,) if case.batch_invariant else (0, 1, 5):
                routed = case.but(route="c", plan="fresh", num_splits=num_splits)
                spoil(calls[operation], routed, backend, draw, tiles, units)
                print(operation, number, num_splits, flush=True)
    print("right after garbage")


if __name__ == "__main__":
    main()
