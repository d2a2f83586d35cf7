"""Lets FlashMLA's sparse script run without a GPU, on CPU tensors, with the smaller ones of its cases."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch

MOST_TOKENS, MOST_LOGITS = 20_000, 3_000_000


def is_small(case: Any) -> bool:
    """Of a RawTestParamForDecode. Caches are quantised, and the reference has a row of floats for each logit."""
    tokens = case.b * (case.s_kv + (case.extra_s_k or 0))
    logits = case.b * case.s_q * case.h_q * (case.topk + (case.extra_topk or 0))
    return case.num_runs == 0 and tokens <= MOST_TOKENS and logits <= MOST_LOGITS


def patch() -> None:
    """Takes CUDA out of PyTorch, as far as the script asks for it."""
    for owner, name in (
        *((torch.cuda, name) for name in ("set_device", "empty_cache", "synchronize")),
        *((torch, name) for name in ("set_default_device", "set_num_threads")),
    ):
        mock.patch.object(owner, name).start()
    torch.Tensor.cuda = lambda tensor: tensor
