"""The model of the serving demo in PyTorch, of the layer that the package has for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

import flashmla
from attended import Attended, SparseAttention
from flashmla.integrations.torch import FlashMLAAttention, PagedStep, Rope
from stand_in_model import HIDDEN, ArrayModel

NEVER = 2**31 - 1  # no prompt is so long


def norm(x: torch.Tensor) -> torch.Tensor:
    return functional.rms_norm(x, (HIDDEN,), eps=1e-6)


@dataclasses.dataclass(frozen=True, eq=False)
class ServedStep(PagedStep):
    """A step whose attention may be sparse, and whose calls are kept for a check."""

    arrays: Any = None
    topk: int | None = None
    seen: list[Attended] | None = None

    def _sparse(self) -> SparseAttention:
        lengths = self.query_lens, self.seq_lens, self.kv_caches[0].shape[1]
        return SparseAttention(self.arrays, self.topk, self.block_table, *lengths)

    def decode(
        self, q: torch.Tensor, split: Any, layer: int, softmax_scale: float, q_rope: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attention of the tokens that are not projected up; sparse attention projects none."""
        kv_cache, slots = self.kv_caches[layer], None
        if q_rope is not None and (self.topk or self.seen is not None):  # keys are compared with all columns
            q, q_rope = torch.cat([q, q_rope], -1), None
        if self.topk:
            out, slots = self.shared("sparse", self._sparse)(q, kv_cache, softmax_scale)
        else:
            out = super().decode(q, split, layer, softmax_scale, q_rope)
        if self.seen is not None:
            tokens = np.arange(len(q)) if split.tokens is None else split.tokens.cpu().numpy()
            self.seen.append(Attended(q, out, kv_cache, self.block_table, tokens, softmax_scale, slots))
        return out


class TorchModel(ArrayModel):
    """On a GPU or on the host, in bfloat16."""

    def _load(self, embedding: np.ndarray, head: np.ndarray, weights: list[dict[str, np.ndarray]], heads: int) -> None:
        def place(array: np.ndarray) -> torch.Tensor:
            return self.arrays.from_host(array).to(self.arrays.dtype)

        self._embedding, self._head = place(embedding), place(head)
        self._layers = [
            FlashMLAAttention(
                {name: place(array) for name, array in of.items()}, num_heads=heads, layer=number, rope=Rope()
            )
            for number, of in enumerate(weights)
        ]

    def begin(
        self, cache: flashmla.PagedKVCache, seqs: Sequence[int], counts: Sequence[int], seen: list[Attended] | None
    ) -> ServedStep:
        options = {"up_project_from": NEVER} if self.topk else {}
        return ServedStep.of_cache(cache, seqs, counts, arrays=self.arrays, topk=self.topk, seen=seen, **options)

    @torch.no_grad()
    def run(self, _cache: flashmla.PagedKVCache, step: ServedStep, tokens: Sequence[int]) -> list[int]:
        hidden = self._embedding[torch.tensor(tokens, device=self.arrays.device)]
        for layer in self._layers:
            hidden = hidden + norm(layer(norm(hidden), step))
        last = norm(hidden[step.last_tokens])
        chosen: list[int] = (last @ self._head.T).argmax(1).tolist()
        return chosen
