"""`DecodeGraph`: steps in which every sequence gets one token, as replays of a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch

import flashmla
from flashmla.integrations._step import PagedStep

Forward = Callable[[torch.Tensor, PagedStep], torch.Tensor]
COPIED = "block_table", "cache_seqlens", "slot_mapping", "position_ids"


class DecodeGraph:
    """What a forward function does with a step of one token a sequence, captured once and replayed.

    forward  takes tokens and a step, and waits for nothing on the device
    cache    of the steps to come, all of it on one GPU
    batch    sequences that the graph has room for; smaller steps are padded with ones that have no tokens

    Steps of another kind or cache, or of more sequences, go to `forward` itself. The result is overwritten by the next
    replay.

    Raises what `forward` does, and RuntimeError where it does what may not be captured. `decode_graph` of
    flashmla.integrations.transformers makes one of a model.
    """

    def __init__(self, forward: Forward, cache: flashmla.PagedKVCache, batch: int) -> None:
        self._forward, self._cache, self._batch, self._used = forward, cache, batch, 0
        table: torch.Tensor = cache.block_table
        self._tokens = torch.zeros(batch, dtype=torch.int64, device=table.device)
        self._block_table, self._cache_seqlens = table.new_zeros(batch, table.shape[1]), table.new_zeros(batch)
        self._slot_mapping, self._position_ids = torch.full_like(self._tokens, -1), torch.zeros_like(self._tokens)
        self._offsets = torch.arange(batch + 1, dtype=torch.int32, device=table.device)
        self._run()  # loads kernels
        self._capture()

    def _run(self) -> None:
        """A new step each time, so that what is captured computes what layers share."""
        step = PagedStep(
            self._cache.kv_cache,
            self._block_table,
            self._cache_seqlens,
            self._slot_mapping,
            self._position_ids,
            self._offsets,
            1,
            kv_format=self._cache.kv_format,
        )
        self._result = self._forward(self._tokens, step)

    def _capture(self) -> None:
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._run()

    def _replay(self) -> None:
        self._graph.replay()

    def __call__(self, input_ids: torch.Tensor, step: PagedStep) -> torch.Tensor:
        """What `forward` returns for the step."""
        number = step.block_table.shape[0]
        decodes = step.max_seqlen_q == 1 and input_ids.shape[0] == number <= self._batch
        if not decodes or step.kv_caches is not self._cache.kv_cache:
            return self._forward(input_ids, step)
        self._tokens[:number].copy_(input_ids)
        for name in COPIED:
            getattr(self, f"_{name}")[:number].copy_(getattr(step, name))
        if number < self._used:
            self._cache_seqlens[number : self._used].zero_()
            self._slot_mapping[number : self._used].fill_(-1)
        self._used = number
        self._replay()
        return self._result[:number]
