"""One small decode call as PyTorch tensors, and what became of a call."""

import numpy as np
import pytest

import small

torch = pytest.importorskip("torch")

NAMES = ("q", "kv_cache", "block_table", "cache_seqlens")


def tensors(dtype="float32", **options):
    """q, kv_cache, block_table, cache_seqlens as torch tensors."""
    arrays = small.inputs(**options)
    kind = getattr(torch, dtype)
    return [torch.from_numpy(array).to(kind) if i < 2 else torch.from_numpy(array) for i, array in enumerate(arrays)]


class Subclass(torch.Tensor):
    pass


def outcome(call):
    """What a call returns, or its error."""
    try:
        return [np.asarray(x) for x in call()]
    except Exception as error:  # noqa: BLE001
        return type(error), str(error)
