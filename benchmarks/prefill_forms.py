"""Attention of a chunk of a prompt, absorbed or with keys projected up: device time by tokens of the chunk.

    python benchmarks/prefill_forms.py [--record FILE] [--commit HASH] [--heads 16] [--context 0]

Of a layer of DeepSeek V3, from queries to heads' results, the writing of latents with it. What the integrations take
for the length from which on keys are projected up is said beside it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import records
import timing
import torch

from flashmla.integrations._latent_attention import KvUpProjection, attend
from flashmla.integrations._step import PagedStep

HEADS, CONTEXTS, CHUNKS = (16, 128), (0, 4096), (64, 128, 256, 512, 1024, 2048, 4096)
D_NOPE, D_ROPE, D_V, RANK, PAGE_SIZE = 128, 64, 128, 512, 64
NEVER = 2**31 - 1


def measure(heads: int, context: int, chunk: int, rounds: int) -> dict:
    """Microseconds of both forms, host included where it is slower than the device; and how far they are apart."""
    options = {"device": "cuda", "dtype": torch.bfloat16}
    q = torch.randn(chunk, heads, D_NOPE + D_ROPE, **options)
    latent, rope = torch.randn(chunk, RANK, **options), torch.randn(chunk, D_ROPE, **options)
    up = KvUpProjection(torch.randn(heads * (D_NOPE + D_V), RANK, **options) * RANK**-0.5, heads, D_NOPE)
    pages = -(-(context + chunk) // PAGE_SIZE)
    kv_caches = [torch.randn(pages, PAGE_SIZE, 1, RANK + D_ROPE, **options)]
    table = torch.randperm(pages, device="cuda").int()[None]

    def call(least: int) -> torch.Tensor:
        step = PagedStep.of_lengths(kv_caches, table, [context], [chunk], up_project_from=least)
        return attend(q, latent, rope, up, step, 0, (D_NOPE + D_ROPE) ** -0.5)

    forms = {"absorbed": NEVER, "projected_up": 1}
    results = {name: call(least).float() for name, least in forms.items()}
    apart = (results["absorbed"] - results["projected_up"]).norm() / results["absorbed"].norm()
    times: dict[str, list[float]] = {name: [] for name in forms}
    for i in range(rounds + 1):
        for name in timing.order(list(forms), i):
            times[name].append(timing.event_us(lambda least=forms[name]: call(least)))
    found = {name: statistics.median(taken[1:]) for name, taken in times.items()}
    return {"us": found, "apart": float(apart), "pays_from": up.pays_from}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--record", type=Path, help="append the records to this file")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--commit", default="", help="of the sources, for the record")
    parser.add_argument("--heads", type=int, action="append")
    parser.add_argument("--context", type=int, action="append")
    args = parser.parse_args()
    facts = records.facts("prefill_forms", args.commit)
    print(facts, flush=True)
    for heads in args.heads or HEADS:
        for context in args.context or CONTEXTS:
            for chunk in CHUNKS:
                found = measure(heads, context, chunk, args.rounds)
                records.append(args.record, {**facts, "heads": heads, "context": context, "chunk": chunk, **found})
                print(
                    f"{heads:3} heads, {context:5} tokens before, chunk {chunk:5}:",
                    f"absorbed {found['us']['absorbed']:9.1f} us, projected up {found['us']['projected_up']:9.1f} us,",
                    f"apart {found['apart']:.1e}, pays from {found['pays_from']}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
