"""A layer of Multi-head Latent Attention in NumPy: projections, RoPE, a paged cache, and what is absorbed where.

Run, it serves two sequences: their prompts in one step, then a token each. The same rows come from keys and values of
every head. The serving demo makes its models of this layer where PyTorch is not installed.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

import flashmla


@dataclasses.dataclass
class Step:
    """What all layers of a step share. Its tokens lie behind one another, sequence by sequence."""

    block_table: np.ndarray  # (batch, max_blocks) int32
    cache_seqlens: np.ndarray  # (batch,) int32, with the tokens of this step
    slot_mapping: np.ndarray  # (tokens,) int64: where they are written
    positions: np.ndarray  # (tokens,)
    cu_seqlens_q: np.ndarray  # (batch + 1,) int32
    max_seqlen_q: int
    plan: flashmla.Plan | None = None

    @classmethod
    def of_cache(cls, cache: flashmla.PagedKVCache, seqs: Sequence[int], counts: Sequence[int], **options: object):  # noqa: ANN206 - Python 3.10 has no Self
        """Appends counts[i] tokens to seqs[i]."""
        total = cache.append(seqs, counts)
        rows, lengths = cache.rows_and_lengths(seqs)
        like = cache.cache_seqlens  # CuPy's arrays stay on their device
        positions = np.concatenate([np.arange(end - count, end) for end, count in zip(lengths, counts, strict=True)])
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        return cls(
            cache.block_table[np.asarray(rows, like=like)],
            np.asarray(lengths, np.int32, like=like),
            cache.slot_mapping[:total],
            np.asarray(positions, like=like),
            np.asarray(offsets, like=like),
            max(counts),
            **options,
        )

    def attend(self, q: np.ndarray, kv_cache: np.ndarray, softmax_scale: float) -> np.ndarray:
        """(tokens, heads, rank) float32 of q (tokens, heads, rank + d_rope). The first layer plans for all."""
        call = q, kv_cache, self.block_table, self.cache_seqlens
        ragged = {"cu_seqlens_q": self.cu_seqlens_q, "max_seqlen_q": self.max_seqlen_q, "causal": True}
        self.plan = self.plan or flashmla.plan_decode(*call, **ragged)
        options = {"softmax_scale": softmax_scale, "plan": self.plan, "out_dtype": np.float32, "return_lse": False}
        return flashmla.dense_decode(*call, **ragged, **options)


class Layer:
    """`weights` are float32, and named as in the checkpoints of DeepSeek."""

    def __init__(self, weights: Mapping[str, np.ndarray], heads: int) -> None:
        self.heads, self.weights = heads, weights
        self.rank = weights["kv_b_proj.weight"].shape[1]
        self.d_rope = len(weights["kv_a_proj_with_mqa.weight"]) - self.rank
        self.d_nope = len(weights["q_b_proj.weight"]) // heads - self.d_rope
        up = weights["kv_b_proj.weight"].reshape(heads, -1, self.rank)
        self.w_uk, self.w_uv = up[:, : self.d_nope], up[:, self.d_nope :]  # views: (heads, d_nope or d_v, rank)
        turns = 10000.0 ** (-np.arange(0, self.d_rope, 2) / self.d_rope)
        self.frequencies = np.asarray(turns, like=up)
        self.softmax_scale = (self.d_nope + self.d_rope) ** -0.5

    def project(self, x: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, ...]:
        """Of tokens (tokens, hidden): queries without and with RoPE, latents, and the RoPE columns of keys."""
        w = self.weights
        q = norm(x @ w["q_a_proj.weight"].T, w["q_a_layernorm.weight"]) @ w["q_b_proj.weight"].T
        q = q.reshape(len(x), self.heads, -1)
        kv = x @ w["kv_a_proj_with_mqa.weight"].T
        latent = norm(kv[:, : self.rank], w["kv_a_layernorm.weight"])
        turned = self.rope(q[..., self.d_nope :], positions), self.rope(kv[:, self.rank :], positions)
        return q[..., : self.d_nope], turned[0], latent, turned[1]

    def rope(self, x: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Pairs of columns (2i, 2i + 1) of x (tokens, ..., d_rope) turn with the position."""
        angles = positions[:, None] * self.frequencies
        turns = np.exp(1j * angles).reshape(len(x), *(1,) * (x.ndim - 2), -1)
        return ((x[..., 0::2] + 1j * x[..., 1::2]) * turns).view(np.float64).astype(np.float32)

    def __call__(self, x: np.ndarray, kv_cache: np.ndarray, step: Step) -> np.ndarray:
        """The layer's output for the tokens of a step, (tokens, hidden) as its input."""
        q_nope, q_rope, latent, k_rope = self.project(x, step.positions)
        flashmla.append_kv(kv_cache, latent.astype(kv_cache.dtype), k_rope.astype(kv_cache.dtype), step.slot_mapping)
        absorbed = (q_nope.transpose(1, 0, 2) @ self.w_uk).transpose(1, 0, 2)  # W_UK goes to the query
        q = np.concatenate([absorbed, q_rope], axis=-1).astype(kv_cache.dtype)
        out = step.attend(q, kv_cache, self.softmax_scale)
        up = (out.transpose(1, 0, 2) @ self.w_uv.transpose(0, 2, 1)).transpose(1, 0, 2)  # W_UV to the result
        return up.reshape(len(x), -1) @ self.weights["o_proj.weight"].T


def norm(x: np.ndarray, weight: np.ndarray | float = 1.0) -> np.ndarray:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-6) * weight


def random_weights(
    rng: np.random.Generator, *, hidden: int, heads: int, rank: int, d_nope: int, d_rope: int, d_v: int, q_rank: int
) -> dict[str, np.ndarray]:
    """Weights of a layer that nobody trained."""
    extents = {
        "q_a_proj": (q_rank, hidden),
        "q_b_proj": (heads * (d_nope + d_rope), q_rank),
        "kv_a_proj_with_mqa": (rank + d_rope, hidden),
        "kv_b_proj": (heads * (d_nope + d_v), rank),
        "o_proj": (hidden, heads * d_v),
    }
    made = {
        f"{name}.weight": rng.standard_normal(extent, np.float32) * np.float32(extent[1] ** -0.5)
        for name, extent in extents.items()
    }
    norms = {"q_a_layernorm": q_rank, "kv_a_layernorm": rank}
    return made | {f"{name}.weight": np.ones(extent, np.float32) for name, extent in norms.items()}


def main() -> None:
    rng = np.random.default_rng(0)
    extents = {"hidden": 256, "rank": 512, "d_nope": 128, "d_rope": 64, "d_v": 128, "q_rank": 192}
    layer = Layer(random_weights(rng, heads=16, **extents), heads=16)  # DeepSeek V3 but for its width
    kv_cache = np.empty((8, 64, 1, 576), np.float32)
    cache = flashmla.PagedKVCache([kv_cache], max_seqs=2, max_seq_len=192)
    sequences = [cache.allocate()[0] for _ in range(2)]
    prompts = [rng.standard_normal((count, 256), np.float32) for count in (100, 30)]
    tokens = rng.standard_normal((2, 256), np.float32)
    first = layer(np.concatenate(prompts), kv_cache, Step.of_cache(cache, sequences, [100, 30]))
    second = layer(tokens, kv_cache, Step.of_cache(cache, sequences, [1, 1]))
    print("prompts:", first.shape, "one token more:", second.shape)

    # Sequence 0 with keys and values of every head.
    x = np.concatenate([prompts[0], tokens[:1]])
    q_nope, q_rope, latent, k_rope = layer.project(x, np.arange(101))
    keys, values = np.einsum("tr,hnr->thn", latent, layer.w_uk), np.einsum("tr,hvr->thv", latent, layer.w_uv)
    logits = np.einsum("shn,thn->hst", q_nope, keys) + np.einsum("shr,tr->hst", q_rope, k_rope)
    logits = np.where(np.tri(101, dtype=bool), logits * layer.softmax_scale, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    expected = np.einsum("hst,thv->shv", weights, values).reshape(101, -1) @ layer.weights["o_proj.weight"].T
    difference = np.abs(np.concatenate([first[:100], second[:1]]) - expected).max()
    print("largest difference:", difference)
    assert difference < 1e-4


if __name__ == "__main__":
    main()
