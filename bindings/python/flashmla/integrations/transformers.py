"""Models of Hugging Face transformers over paged caches of latents, several sequences in one step.

`attach` gives a model the attention implementation "paged_mla". In a step that `forward` makes, its layers then write
the latents of all tokens into their pages and attend them there; everything else, RoPE and norms too, stays the
model's. Calls without a step, such as `generate` of transformers, go on as with "sdpa".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

import flashmla
from flashmla.errors import FlashMLAError, UnsupportedError, invalid
from flashmla.integrations import _generation as continuous
from flashmla.integrations._graphs import DecodeGraph
from flashmla.integrations._latent_attention import KvUpProjection, attend
from flashmla.integrations._step import PagedStep

__all__ = [
    "CONFIGS",
    "DecodeGraph",
    "PagedStep",
    "attach",
    "decode_graph",
    "detach",
    "forward",
    "generate",
    "kv_cache_shape",
    "num_kv_caches",
]

IMPLEMENTATION = "paged_mla"  # transformers takes names with "flash" in them for packages of its own list

CONFIGS = frozenset({
    "AXK1Config",
    "DeepseekV2Config",
    "DeepseekV3Config",
    "Glm4MoeLiteConfig",
    "LongcatFlashConfig",
    "MiniCPM3Config",
    "Mistral4Config",
    "SarvamMLAConfig",
    "YoutuConfig",
})  # fmt: skip
"""Configurations whose attention layers are dense MLA and nothing else. Kimi K2's is that of DeepSeek V3."""


def attach(model: PreTrainedModel) -> PreTrainedModel:
    """Makes the model's attention layers, in place, attend paged caches in steps of `forward`. Returns the model.

    Weights stay where they are: what is absorbed are views of `kv_b_proj`. `detach` undoes it.

    Raises UnsupportedError for a model that has no such layers, or others too.

    >>> attach(model) is model
    True
    """
    layers = list(_layers(model))
    _check_head_sizes(layers[0].config)
    for layer in layers:
        layer.expand_kv = _as_they_are
    model.set_attn_implementation(IMPLEMENTATION)
    return model


def detach(model: PreTrainedModel, attn_implementation: str = "sdpa") -> PreTrainedModel:
    """Undoes `attach`, in favour of another attention implementation. Returns the model.

    Raises UnsupportedError for a model that `attach` refuses.

    >>> detach(attach(model)) is model
    True
    """
    for layer in _layers(model):
        vars(layer).pop("expand_kv", None)
    model.set_attn_implementation(attn_implementation)
    return model


def num_kv_caches(model: PreTrainedModel) -> int:
    """How many caches a step of the model needs: one for each attention layer.

    Raises UnsupportedError for a model that `attach` refuses.

    >>> num_kv_caches(model)
    2
    """
    return len(list(_layers(model)))


def kv_cache_shape(model: PreTrainedModel, num_blocks: int, page_size: int) -> tuple[int, int, int, int]:
    """The shape of a layer's cache in the format "bf16", whose dtype is that of the model.

    Raises UnsupportedError for a model that `attach` refuses.

    >>> kv_cache_shape(model, num_blocks=32, page_size=64)
    (32, 64, 1, 576)
    """
    config = next(_layers(model)).config
    return num_blocks, page_size, 1, config.kv_lora_rank + config.qk_rope_head_dim


@torch.no_grad()
def forward(model: PreTrainedModel, input_ids: torch.Tensor, step: PagedStep, **options: Any) -> torch.Tensor:
    """Runs an attached model on the tokens of a step, which lie behind one another: (total_q,).

    Returns the logits that follow each sequence's last token, (batch, vocab_size), or with `logits_to_keep=0` those of
    all tokens, (total_q, vocab_size). A row of a sequence without tokens in this step means nothing. Other options go
    to the model.

    Raises InvalidArgumentError for a model that is not attached, for tokens that are not those of the step, and for a
    step without any.

    >>> sequence, _ = cache.allocate()
    >>> logits = forward(model, torch.tensor([1, 2, 3]), PagedStep.of_cache(cache, [sequence], [3]))
    >>> logits.shape
    torch.Size([1, 1000])
    """
    if model.config._attn_implementation != IMPLEMENTATION:  # noqa: SLF001 - it has no public name
        raise invalid("FLASHMLA_ERROR_VALUE", f"the model is not attached; call {__name__}.attach")
    if input_ids.shape != step.position_ids.shape:
        raise invalid(
            "FLASHMLA_ERROR_SHAPE",
            f"input_ids has the shape {tuple(input_ids.shape)}; it must be {tuple(step.position_ids.shape)}, the "
            "tokens of the step behind one another",
        )
    if not input_ids.shape[0]:
        raise invalid("FLASHMLA_ERROR_ZERO_EXTENT", "the step has no tokens; leave it out")
    options = {"logits_to_keep": step.last_tokens, **options}
    outputs = model(
        input_ids=input_ids[None],
        position_ids=step.position_ids[None],
        attention_mask=input_ids.new_empty(1, 1, 0, 0),  # of four axes: transformers makes none of its own
        use_cache=False,
        flashmla_step=step,
        **options,
    )
    logits: torch.Tensor = outputs.logits[0]
    return logits


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    cache: flashmla.PagedKVCache,
    *,
    max_new_tokens: int,
    eos_token_ids: int | Collection[int] | None = (),
    max_step_tokens: int = 2048,
    choose: Callable[[torch.Tensor], torch.Tensor] | None = None,
    graph: DecodeGraph | None = None,
) -> list[list[int]]:
    """What an attached model adds to each prompt, by continuous batching over `cache`: the new tokens of each.

    A step has at most `max_step_tokens` tokens: one of each sequence that decodes, and of prompts, whole or in pieces,
    as many as there is room for. Prompts share the pages in which they begin alike. Where pages run out, the sequence
    that came last gives its own back, and begins anew when there are some.

    eos_token_ids  end a sequence: one, several or none, as configurations have them
    choose         tokens (batch,) of logits (batch, vocab_size); None: the greatest
    graph          of `decode_graph`, for steps in which all sequences decode

    Raises InvalidArgumentError for a prompt without tokens, and PoolFullError where a prompt with what it gets is
    longer than all of the cache, before anything runs. Whatever is raised, the cache has no sequences of this call any
    more.

    >>> [len(added) for added in generate(model, [[1, 2, 3], [4]], cache, max_new_tokens=5)]
    [5, 5]
    """
    return continuous.generate(
        graph or partial(forward, model),
        prompts,
        cache,
        max_new_tokens=max_new_tokens,
        eos_token_ids=eos_token_ids,
        max_step_tokens=max_step_tokens,
        choose=choose or partial(torch.argmax, dim=-1),
    )


def decode_graph(model: PreTrainedModel, cache: flashmla.PagedKVCache, batch: int) -> DecodeGraph:
    """`forward` of an attached model on a GPU, captured for steps in which up to `batch` sequences get a token each.

    Called as `forward` is, without the model: graph(input_ids, step).

    Raises InvalidArgumentError for a cache that is not on a GPU, and for a batch below 1.

    >>> if cache.block_table.is_cuda:
    ...     added = generate(model, [[1, 2, 3]], cache, max_new_tokens=5, graph=decode_graph(model, cache, batch=1))
    """
    if batch < 1:
        raise invalid("FLASHMLA_ERROR_VALUE", f"batch is {batch}; it must be at least 1")
    if not getattr(cache.block_table, "is_cuda", False):
        raise invalid("FLASHMLA_ERROR_DEVICE", "the cache is not in PyTorch on a GPU; only there are graphs captured")
    return DecodeGraph(partial(forward, model), cache, batch)


def _layers(model: PreTrainedModel) -> Iterator[Any]:
    """The attention layers of a model; raises for one that has others, or none."""
    found = [module for module in model.modules() if hasattr(module, "kv_b_proj") and hasattr(module, "layer_idx")]
    names = {type(layer.config).__name__ for layer in found} or {type(model.config).__name__}
    if not found or names - CONFIGS:
        raise UnsupportedError(
            f"{type(model).__name__} has the configuration {', '.join(sorted(names - CONFIGS or names))}; its "
            f"attention layers must be those of {', '.join(sorted(CONFIGS))}"
        )
    for layer in found:
        if not hasattr(layer, "expand_kv"):
            raise UnsupportedError(f"{type(layer).__name__} keeps no latents; transformers 5.24 or later does")
        if more := _beside_weight(layer.kv_b_proj):
            raise UnsupportedError(
                f"kv_b_proj of layer {layer.layer_idx} {more}; it must be a plain torch.nn.Linear, of which the weight "
                "alone is used"
            )
    return iter(found)


def _check_head_sizes(config: Any) -> None:
    """Asks the library, by a call of the CPU, which has all head sizes that GPUs have."""
    rank, rope = config.kv_lora_rank, config.qk_rope_head_dim
    with torch.device("cpu"):
        extents = (rank, rope, rank + rope)
        q, q_rope, kv_cache = (torch.empty(1, 1, 1, columns, dtype=torch.float32) for columns in extents)
        block_table, cache_seqlens = torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    try:
        flashmla.dense_decode_workspace_size(q, kv_cache, block_table, cache_seqlens, q_rope=q_rope)
    except FlashMLAError as error:
        raise UnsupportedError(f"kv_lora_rank and qk_rope_head_dim are {rank} and {rope}: {error}") from None


def _beside_weight(linear: torch.nn.Module) -> str:
    """What a projection does beside the product with its weight; empty: nothing."""
    if type(linear) is not torch.nn.Linear:
        return f"is a {type(linear).__module__}.{type(linear).__name__}"
    if linear.bias is not None:
        return "has a bias"
    hooked = linear._forward_hooks or linear._forward_pre_hooks  # noqa: SLF001 - there is no public way to ask
    return "has a forward of its own, or hooks" if hooked or "forward" in vars(linear) else ""


def _as_they_are(latent: torch.Tensor, rope: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What layers make keys and values with: in the place of keys and values go latents and RoPE columns."""
    return latent, rope


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    flashmla_step: PagedStep | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function of transformers' interface; key and value are what `_as_they_are` returned."""
    attached = "expand_kv" in vars(module)
    if flashmla_step is None:
        if attached:
            key, value = type(module).expand_kv(module, key, value)
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
        return out, None
    if not attached:
        raise invalid("FLASHMLA_ERROR_VALUE", f"the layer is not attached; call {__name__}.attach")
    up = KvUpProjection(module.kv_b_proj.weight, module.num_heads, module.qk_nope_head_dim)
    q = query[0].transpose(0, 1)  # (total_q, heads, d_qk)
    out = attend(q, key[0, 0], value[0, 0], up, flashmla_step, module.layer_idx, scaling)
    return out[None], None


AttentionInterface.register(IMPLEMENTATION, _attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
