"""Multi-head Latent Attention as a layer of PyTorch, made of the weights of a checkpoint, over paged caches."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from flashmla._scalars import EXTENT, integer
from flashmla._words import a
from flashmla.errors import invalid
from flashmla.integrations._latent_attention import KvUpProjection, attend
from flashmla.integrations._rotary import Rope, Yarn
from flashmla.integrations._step import PagedStep

__all__ = ["FlashMLAAttention", "PagedStep", "Rope", "Yarn"]

ALWAYS = {"kv_a_proj_with_mqa.weight", "kv_a_layernorm.weight", "kv_b_proj.weight", "o_proj.weight"}
LOW_RANK_QUERIES = {"q_a_proj.weight", "q_a_layernorm.weight", "q_b_proj.weight"}
FULL_RANK_QUERIES = {"q_proj.weight"}
BIASES = {"q_a_proj.bias", "kv_a_proj_with_mqa.bias", "o_proj.bias"}


class FlashMLAAttention(nn.Module):
    """An attention layer whose cache holds latents. It reads its extents from its weights, which it does not copy.

    weights        of the layer, named as in the checkpoints of DeepSeek: q_proj, or q_a_proj, q_a_layernorm and
                   q_b_proj; kv_a_proj_with_mqa, kv_a_layernorm, kv_b_proj, o_proj
    num_heads      query heads
    layer          which of the step's caches is the layer's
    rope           None: the columns that heads share do not turn (Kimi Linear)
    softmax_scale  None: (d_nope + d_rope) ** -0.5, times what YaRN wants
    norm_eps       of both norms

    Raises InvalidArgumentError where weights are missing or unknown, or their extents are not of so many heads;
    TypeError for what is no tensor, and no integer.

    W_UK goes to the queries and W_UV to the results as views of kv_b_proj, so that weights may be loaded, moved and
    converted as those of any module.

    >>> rows = {"q_proj": 4 * 192, "kv_a_proj_with_mqa": 576, "o_proj": 64}
    >>> columns = {"q_proj": 64, "kv_a_proj_with_mqa": 64, "o_proj": 4 * 128}
    >>> weights = {f"{name}.weight": torch.randn(rows[name], columns[name]) for name in rows}
    >>> weights |= {"kv_a_layernorm.weight": torch.ones(512), "kv_b_proj.weight": torch.randn(4 * 256, 512)}
    >>> layer = FlashMLAAttention(weights, num_heads=4, rope=Rope())
    >>> block_table = torch.tensor([[5, 2]], dtype=torch.int32)
    >>> step = PagedStep.of_lengths([torch.zeros(8, 64, 1, 576)], block_table, context_lens=[0], query_lens=[70])
    >>> layer(torch.randn(70, 64), step).shape
    torch.Size([70, 64])
    """

    def __init__(
        self,
        weights: Mapping[str, torch.Tensor],
        *,
        num_heads: int,
        layer: int = 0,
        rope: Rope | None = None,
        softmax_scale: float | None = None,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        num_heads, layer = integer(num_heads, "num_heads", EXTENT), integer(layer, "layer", EXTENT)
        _check(weights, num_heads)
        self.num_heads, self.layer, self.rope = num_heads, layer, rope
        if "q_proj.weight" in weights:
            self.q_proj = _linear(weights, "q_proj")
        else:
            self.q_a_proj = _linear(weights, "q_a_proj")
            self.q_a_layernorm = _norm(weights, "q_a_layernorm", norm_eps)
            self.q_b_proj = _linear(weights, "q_b_proj")
        self.kv_a_proj_with_mqa = _linear(weights, "kv_a_proj_with_mqa")
        self.kv_a_layernorm = _norm(weights, "kv_a_layernorm", norm_eps)
        self.kv_b_proj = _linear(weights, "kv_b_proj")
        self.o_proj = _linear(weights, "o_proj")

        self.kv_lora_rank = self.kv_b_proj.in_features
        self.d_rope = self.kv_a_proj_with_mqa.out_features - self.kv_lora_rank
        self.d_nope = (self.kv_b_proj.out_features - self.o_proj.in_features) // num_heads
        factor = rope.softmax_factor if rope else 1.0
        usual = (self.d_nope + self.d_rope) ** -0.5 * factor
        self.softmax_scale = usual if softmax_scale is None else softmax_scale

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, layer={self.layer}, rope={self.rope}, softmax_scale={self.softmax_scale}"

    @torch.no_grad()
    def forward(self, hidden_states: torch.Tensor, step: PagedStep) -> torch.Tensor:
        """The layer's output for the tokens of a step, (total_q, hidden_size) as its input.

        Raises InvalidArgumentError where the step has no cache for the layer or other tokens, and what `append_kv` and
        `dense_decode` do.
        """
        tokens = step.position_ids.shape[0]
        if hidden_states.ndim != 2 or hidden_states.shape[0] != tokens:
            raise invalid(
                "FLASHMLA_ERROR_SHAPE",
                f"hidden_states has the shape {tuple(hidden_states.shape)}; it must be ({tokens}, hidden_size), a row "
                "for each token of the step",
            )
        if hasattr(self, "q_proj"):
            q = self.q_proj(hidden_states)
        else:
            q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(hidden_states)))
        q = q.view(q.shape[0], self.num_heads, self.d_nope + self.d_rope)
        latent, shared = self.kv_a_proj_with_mqa(hidden_states).tensor_split([self.kv_lora_rank], -1)
        if self.rope is not None:
            rope, d_rope = self.rope, self.d_rope
            tables = step.shared((rope, d_rope), lambda: rope.tables(step.position_ids, d_rope))
            nope, turning = q.tensor_split([self.d_nope], -1)
            q = torch.cat([nope, rope.rotated(turning, *tables)], -1)
            shared = rope.rotated(shared, *tables)
        up = KvUpProjection(self.kv_b_proj.weight, self.num_heads, self.d_nope)
        out = attend(q, self.kv_a_layernorm(latent), shared, up, step, self.layer, self.softmax_scale)
        projected: torch.Tensor = self.o_proj(out.flatten(1))
        return projected


def _check(weights: Mapping[str, torch.Tensor], num_heads: int) -> None:
    """Refuses what is not all weights of a layer, or more than those."""
    expected = ALWAYS | (FULL_RANK_QUERIES if "q_proj.weight" in weights else LOW_RANK_QUERIES)
    for problem, names in ("lack", expected - set(weights)), ("have the unknown", set(weights) - expected - BIASES):
        if names:
            raise invalid("FLASHMLA_ERROR_VALUE", f"weights {problem} {', '.join(sorted(names))}")
    for name, weight in weights.items():
        if not isinstance(weight, torch.Tensor):
            raise TypeError(f"weights[{name!r}] is {a(weight)}; a torch.Tensor is needed")
    for name, axis, lines in ("kv_b_proj.weight", 0, "rows"), ("o_proj.weight", 1, "columns"):
        extent = weights[name].shape[axis]
        if num_heads < 1 or extent % num_heads:
            raise invalid(
                "FLASHMLA_ERROR_SHAPE", f"num_heads is {num_heads}; the {extent} {lines} of {name} must be a multiple"
            )
    for norm, behind in ("kv_a_layernorm.weight", "kv_b_proj.weight"), ("q_a_layernorm.weight", "q_b_proj.weight"):
        if norm in weights and weights[norm].shape != weights[behind].shape[1:]:
            raise invalid(
                "FLASHMLA_ERROR_SHAPE",
                f"{norm} has the shape {tuple(weights[norm].shape)}; it must be {tuple(weights[behind].shape[1:])}, by "
                f"the columns of {behind}",
            )
    d_rope = weights["kv_a_proj_with_mqa.weight"].shape[0] - weights["kv_b_proj.weight"].shape[1]
    d_nope = (weights["kv_b_proj.weight"].shape[0] - weights["o_proj.weight"].shape[1]) // num_heads
    name = "q_proj.weight" if "q_proj.weight" in weights else "q_b_proj.weight"
    extent, expected_rows = weights[name].shape[0], num_heads * (d_nope + d_rope)
    if extent != expected_rows:
        raise invalid(
            "FLASHMLA_ERROR_SHAPE",
            f"{name} has {extent} rows; with num_heads {num_heads}, d_nope {d_nope} and d_rope {d_rope}, as the other "
            f"weights have them, it must have {expected_rows}",
        )


def _linear(weights: Mapping[str, torch.Tensor], name: str) -> nn.Linear:
    """A layer of the very tensors that are given."""
    weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return made


def _norm(weights: Mapping[str, torch.Tensor], name: str, eps: float) -> nn.RMSNorm:
    weight = weights[f"{name}.weight"]
    made = nn.RMSNorm(weight.shape[0], eps, device="meta")
    made.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return made
