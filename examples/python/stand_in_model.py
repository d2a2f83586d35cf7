"""The models of the serving demo: layers of Multi-head Latent Attention with residuals and norms, and nothing else.

Their weights are random, so what they say means nothing. But each token follows from the attention before it, so a
wrong result changes every token after it, as in a trained model. For that the outputs of layers have a norm, too: the
mean of many random values is small. The extents of a head are DeepSeek's: a latent of 512, 64 columns with RoPE.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

import flashmla
from arrays import Array
from attended import Attended, SparseAttention
from attention_numpy import Layer, Step, norm, random_weights

HIDDEN, VOCABULARY = 512, 512
ROW = 576  # of the cache
EXTENTS = {"hidden": HIDDEN, "rank": 512, "d_nope": 128, "d_rope": 64, "d_v": 128, "q_rank": 256}


def weights_of(layers: int, heads: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[dict[str, np.ndarray]]]:
    """The embedding, what logits are made with, and the weights of each layer."""
    rng = np.random.default_rng(seed)
    embedding, head = rng.standard_normal((2, VOCABULARY, HIDDEN), np.float32)
    return embedding, head, [random_weights(rng, heads=heads, **EXTENTS) for _ in range(layers)]


def make_model(arrays: Any, *, layers: int, heads: int, seed: int, topk: int | None = None) -> "ArrayModel":
    """Of the layer for PyTorch, or of that for NumPy and CuPy."""
    if arrays.xp.__name__ == "torch":
        from torch_model import TorchModel  # noqa: PLC0415 - PyTorch may be missing

        return TorchModel(arrays, layers, heads, seed, topk)
    return ArrayModel(arrays, layers, heads, seed, topk)


@dataclasses.dataclass
class ServedStep(Step):
    """A step whose attention may be sparse, and whose calls are kept for a check."""

    sparse: SparseAttention | None = None
    seen: list[Attended] | None = None

    def attend(self, q: Array, kv_cache: Array, softmax_scale: float) -> Array:
        slots = None
        if self.sparse:
            out, slots = self.sparse(q, kv_cache, softmax_scale)
        else:
            out = super().attend(q, kv_cache, softmax_scale)
        if self.seen is not None:
            tokens = np.arange(len(q))
            self.seen.append(Attended(q, out, kv_cache, self.block_table, tokens, softmax_scale, slots))
        return out


class ArrayModel:
    """A model over a `PagedKVCache`, in NumPy or CuPy."""

    def __init__(self, arrays: Any, layers: int, heads: int, seed: int, topk: int | None) -> None:
        self.arrays, self.topk, self.num_layers = arrays, topk, layers
        self._load(*weights_of(layers, heads, seed), heads)

    def _load(self, embedding: np.ndarray, head: np.ndarray, weights: list[dict[str, np.ndarray]], heads: int) -> None:
        place = self.arrays.from_host
        self._embedding, self._head = place(embedding), place(head)
        self._layers = [Layer({name: place(array) for name, array in of.items()}, heads) for of in weights]

    def make_cache(
        self, num_blocks: int, page_size: int, num_host_blocks: int, **options: int
    ) -> flashmla.PagedKVCache:
        """Slots that no token was written to hold NaN: one that gets into a result shows."""
        shape = (num_blocks, page_size, 1, ROW)
        kv_caches = [self.arrays.full(shape, float("nan")) for _ in range(self.num_layers)]
        block_bytes = flashmla.PagedKVCache.bytes_of_block(kv_caches)
        host_pool = self.arrays.host_memory((num_host_blocks, block_bytes))
        return flashmla.PagedKVCache(kv_caches, host_pool=host_pool, **options)

    def begin(
        self, cache: flashmla.PagedKVCache, seqs: Sequence[int], counts: Sequence[int], seen: list[Attended] | None
    ) -> Any:
        """A step that appends counts[i] tokens to seqs[i]; `seen` will get what attention did.

        Raises PoolFullError where there is no room for the tokens.
        """
        step = ServedStep.of_cache(cache, seqs, counts, seen=seen)
        if self.topk:
            _, lengths = cache.rows_and_lengths(seqs)
            step.sparse = SparseAttention(self.arrays, self.topk, step.block_table, counts, lengths, cache.page_size)
        return step

    def run(self, cache: flashmla.PagedKVCache, step: Any, tokens: Sequence[int]) -> list[int]:
        """The token that follows each sequence."""
        hidden = self._embedding[self.arrays.from_host(np.array(tokens))]
        for layer, kv_cache in zip(self._layers, cache.kv_cache, strict=True):
            hidden = hidden + norm(layer(norm(hidden), kv_cache, step))
        last = norm(hidden[step.cu_seqlens_q[1:] - 1])
        return self.arrays.to_host((last @ self._head.T).argmax(1)).tolist()
