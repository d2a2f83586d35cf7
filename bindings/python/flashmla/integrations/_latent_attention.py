"""Attention over a cache of latents, between the projections of a model: absorbed, or with keys projected up.

A head's key and value of a token are W_UK c and W_UV c of the token's latent c, and its keys have RoPE columns that all
heads share. Absorbed, W_UK goes to the query instead and W_UV to the result, so that all heads attend the latents
themselves: few query tokens read little. Projected up, a query token costs fewer operations, but all keys are
projected first: many query tokens share that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

import flashmla
from flashmla.integrations._step import Chunk, PagedStep, Split


@dataclass(frozen=True)
class KvUpProjection:
    """The weights that make keys and values of latents, `kv_b_proj` of checkpoints. What is absorbed are views of them.

    weight    (heads * (d_nope + d_v), kv_lora_rank)
    """

    weight: torch.Tensor
    num_heads: int
    d_nope: int

    @property
    def d_v(self) -> int:
        """Columns of a head's value."""
        return self.weight.shape[0] // self.num_heads - self.d_nope

    def per_head(self) -> tuple[torch.Tensor, torch.Tensor]:
        """W_UK, (heads, d_nope, kv_lora_rank), and W_UV, (heads, d_v, kv_lora_rank)."""
        keys, values = self.weight.view(self.num_heads, -1, self.weight.shape[1]).tensor_split([self.d_nope], 1)
        return keys, values

    @property
    def pays_from(self) -> int:
        """Query tokens of a sequence from which on keys that are projected up take fewer multiplications.

        For each head, query token and key absorbed attention multiplies (rank + d_rope) + rank times, the other one
        (d_nope + d_rope) + d_v times, but that projects each key up with rank * (d_nope + d_v) before.
        """
        rank, made = self.weight.shape[1], self.d_nope + self.d_v
        return math.ceil(rank * made / (2 * rank - made)) if made < 2 * rank else 2**31 - 1


def attend(
    q: torch.Tensor,
    latent: torch.Tensor,
    rope: torch.Tensor,
    up: KvUpProjection,
    step: PagedStep,
    layer: int,
    softmax_scale: float,
) -> torch.Tensor:
    """Writes the step's tokens into the cache of a layer and attends it: (total_q, heads, d_v).

    q        (total_q, heads, d_nope + d_rope), RoPE applied
    latent   (total_q, kv_lora_rank), normalised
    rope     (total_q, d_rope), RoPE applied; d_rope may be 0
    """
    columns = rope if rope.shape[-1] else None
    flashmla.append_kv(step.cache_of(layer), latent, columns, step.slot_mapping, kv_format=step.kv_format)
    split = step.split(up.pays_from)
    if not split.chunks:
        return _absorbed(q, up, split, step, layer, softmax_scale)
    out = q.new_empty(*q.shape[:2], up.d_v)
    if split.tokens is not None and split.tokens.numel():
        out[split.tokens] = _absorbed(q[split.tokens], up, split, step, layer, softmax_scale)
    for chunk in split.chunks:
        tokens = slice(chunk.first, chunk.first + chunk.length)
        out[tokens] = _projected_up(q[tokens], up, chunk, step, layer, softmax_scale)
    return out


def _absorbed(
    q: torch.Tensor, up: KvUpProjection, split: Split, step: PagedStep, layer: int, softmax_scale: float
) -> torch.Tensor:
    """Heads attend latents: W_UK before, W_UV behind."""
    keys, values = up.per_head()
    nope, rope = q.tensor_split([up.d_nope], -1)
    latent = nope.transpose(0, 1) @ keys  # (heads, tokens, kv_lora_rank)
    columns = _readable(rope) if rope.shape[-1] else None
    out = step.decode(latent.transpose(0, 1), split, layer, softmax_scale, columns)
    return (out.transpose(0, 1) @ values.mT).transpose(0, 1)


def _readable(part: torch.Tensor) -> torch.Tensor:
    """A part of q as it is where its rows lie at multiples of 16 bytes, else a copy."""
    rows = (part.data_ptr(), *(stride * part.element_size() for stride in part.stride()[:-1]))
    return part.contiguous() if any(place % 16 for place in rows) else part


def _projected_up(
    q: torch.Tensor, up: KvUpProjection, chunk: Chunk, step: PagedStep, layer: int, softmax_scale: float
) -> torch.Tensor:
    """The tokens of a sequence that begins attend keys and values of their own heads, by PyTorch."""
    table = step.block_table[chunk.sequence : chunk.sequence + 1]
    rows = flashmla.gather_kv(
        step.kv_caches[layer], table, chunk.rows, chunk.length, kv_format=step.kv_format, out_dtype=q.dtype
    )
    latent, rope = rows.tensor_split([up.weight.shape[1]], -1)
    made = functional.linear(latent, up.weight).view(chunk.length, up.num_heads, -1).transpose(0, 1)
    nope, values = made.tensor_split([up.d_nope], -1)  # (heads, length, .)
    keys = torch.cat([nope, rope.expand(up.num_heads, -1, -1)], -1)
    attended = functional.scaled_dot_product_attention(
        q.transpose(0, 1)[None], keys[None], values[None], is_causal=True, scale=softmax_scale
    )
    return attended[0].transpose(0, 1)
