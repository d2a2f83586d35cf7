"""Decode tokens/s of a small DeepSeek-V3 model of transformers: over paged caches, and by its own eager and SDPA paths.

    python benchmarks/transformers_decode.py [--record FILE] [--commit HASH] [--case 32,4096]

The model is random and has two layers, one with experts, 16 heads and the latents of the real one. A case is how many
sequences and how many tokens each has before the first step. Whole steps are timed, the host's work with them, in
alternating rounds. Over paged caches it runs as transformers runs it, and as a graph (flashmla_graph); its own paths
keep their latents in a DynamicCache.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import records
import timing
import torch
import transformers

import flashmla
from flashmla.integrations import transformers as integration

CASES = ((32, 1024), (32, 4096), (256, 1024), (256, 4096))
PAGE_SIZE = 64
STEPS = 8  # of a round
CONFIG = {
    "vocab_size": 8192,
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "moe_intermediate_size": 512,
    "num_hidden_layers": 2,
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "q_lora_rank": 512,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "max_position_embeddings": 16_384,
    "num_mtp_layers": 0,
}


def make_model(device: str, **changes) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = transformers.DeepseekV3Config(**(CONFIG | changes))
    with torch.device(device):
        model = transformers.DeepseekV3ForCausalLM._from_config(config, dtype=torch.bfloat16)  # noqa: SLF001
    return model.eval()


class Sequences:
    """Latents that sequences have in every layer before the first step."""

    def __init__(self, model, batch: int, context: int) -> None:
        self.batch, self.context, self.layers = batch, context, model.config.num_hidden_layers
        options = {"device": model.device, "dtype": model.dtype}
        self.latents = torch.randn(self.layers, batch, 1, context, model.config.kv_lora_rank, **options)
        self.ropes = torch.randn(self.layers, batch, 1, context, model.config.qk_rope_head_dim, **options)


class Own:
    """The model's own attention."""

    def __init__(self, model, sequences: Sequences, implementation: str) -> None:
        self.model, self.implementation, self.length = model, implementation, sequences.context
        self.cache = transformers.DynamicCache(config=model.config)
        for layer in range(sequences.layers):
            self.cache.update(sequences.latents[layer], sequences.ropes[layer], layer)

    def enter(self) -> None:
        integration.detach(self.model, self.implementation)

    @torch.no_grad()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = torch.full_like(tokens, self.length)[:, None]
        self.length += 1
        return self.model(input_ids=tokens[:, None], position_ids=positions, cache=self.cache).logits[:, -1]


class Paged:
    """A paged cache, in whose pages the tokens lie scattered."""

    def __init__(self, model, sequences: Sequences, steps: int, *, graph: bool = False) -> None:
        self.model, length = model, sequences.context + steps
        num_blocks = -(-length // PAGE_SIZE) * sequences.batch
        shape = integration.kv_cache_shape(model, num_blocks, PAGE_SIZE)
        self.cache = flashmla.PagedKVCache(
            [torch.zeros(shape, dtype=model.dtype, device=model.device) for _ in range(sequences.layers)],
            max_seqs=sequences.batch,
            max_seq_len=length,
        )
        self.seqs = [self.cache.allocate()[0] for _ in range(sequences.batch)]
        for first in range(0, sequences.context, PAGE_SIZE):  # so that sequences take pages in turn
            tokens = slice(first, min(first + PAGE_SIZE, sequences.context))
            for i, seq in enumerate(self.seqs):
                total = self.cache.append([seq], [tokens.stop - tokens.start])
                for kv_cache, latent, rope in zip(self.cache.kv_cache, sequences.latents, sequences.ropes, strict=True):
                    slots = self.cache.slot_mapping[:total]
                    flashmla.append_kv(kv_cache, latent[i, 0, tokens], rope[i, 0, tokens], slots)
        self.enter()
        self.forward = partial(integration.forward, model)
        if graph:
            self.forward = integration.decode_graph(model, self.cache, sequences.batch)

    def enter(self) -> None:
        integration.attach(self.model)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.forward(tokens, integration.PagedStep.of_cache(self.cache, self.seqs))


def seconds(contender, tokens: torch.Tensor, steps: int) -> float:
    """Of one step, whose tokens are those that the one before chose."""
    contender.enter()
    synchronise = torch.cuda.synchronize if tokens.is_cuda else int
    synchronise()
    start = time.perf_counter()
    for _ in range(steps):
        tokens = contender.step(tokens).argmax(-1)
    synchronise()
    return (time.perf_counter() - start) / steps


def measure(model, batch: int, context: int, rounds: int) -> dict:
    """Tokens/s of the contenders, and how far their first logits are from the eager model's."""
    sequences = Sequences(model, batch, context)
    steps = 2 + STEPS * rounds
    contenders = {"flashmla": Paged(model, sequences, steps)}
    if model.device.type == "cuda":
        contenders["flashmla_graph"] = Paged(model, sequences, steps, graph=True)
    contenders |= {name: Own(model, sequences, name) for name in ("sdpa", "eager")}
    tokens = torch.arange(batch, device=model.device)
    logits = {}
    for name, contender in contenders.items():
        contender.enter()
        logits[name] = contender.step(tokens).float()
        contender.step(tokens)
    norm = logits["eager"].norm()
    apart = {name: float((found - logits["eager"]).norm() / norm) for name, found in logits.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(rounds):
        for name in timing.order(list(contenders), i):
            times[name].append(seconds(contenders[name], tokens, STEPS))
    return {
        "tokens_per_s": {name: batch / statistics.median(found) for name, found in times.items()},
        "apart_from_eager": apart,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--record", type=Path, help="append the records to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--commit", default="", help="of the sources, for the record")
    parser.add_argument("--case", action="append", help="sequences and the tokens that each has")
    args = parser.parse_args()
    facts = {**records.facts("transformers_decode", args.commit), "transformers": transformers.__version__}
    print(facts, flush=True)
    model = make_model("cuda")
    cases = [tuple(map(int, case.split(","))) for case in args.case] if args.case else CASES
    for batch, context in cases:
        found = measure(model, batch, context, args.rounds)
        records.append(args.record, {**facts, "case": [batch, context], **found})
        speeds = ", ".join(f"{name} {speed:,.0f}" for name, speed in found["tokens_per_s"].items())
        apart = ", ".join(f"{name} {distance:.1e}" for name, distance in found["apart_from_eager"].items())
        print(f"{batch} sequences of {context} tokens: tokens/s {speeds}; logits from eager: {apart}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
