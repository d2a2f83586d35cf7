"""Attention of a prompt, absorbed or with keys projected up: device time by the tokens of the prompt.

    python benchmarks/prefill_forms.py [--record FILE] [--commit HASH] [--heads 16]

Of a layer of DeepSeek V3, from queries to heads' results, the writing of latents with it. Beside it stands the length
from which on the integrations project keys up.
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

HEADS, PROMPTS = (16, 32, 64, 128), (64, 128, 192, 256, 384, 512, 1024, 4096)
D_NOPE, D_ROPE, D_V, RANK, PAGE_SIZE = 128, 64, 128, 512, 64
FORMS = {"absorbed": 2**31 - 1, "projected_up": 1}
HOST_CYCLES = 3_000_000  # of the device, in which the host enqueues a call


def device_us(call: timing.Call) -> float:
    torch.cuda._sleep(HOST_CYCLES)  # noqa: SLF001 - nothing public waits on the device alone
    return timing.event_us(call)


def measure(heads: int, prompt: int, rounds: int) -> dict:
    """Microseconds of both forms, and how far their results are apart."""
    options = {"device": "cuda", "dtype": torch.bfloat16}
    q = torch.randn(prompt, heads, D_NOPE + D_ROPE, **options)
    latent, rope = torch.randn(prompt, RANK, **options), torch.randn(prompt, D_ROPE, **options)
    up = KvUpProjection(torch.randn(heads * (D_NOPE + D_V), RANK, **options) * RANK**-0.5, heads, D_NOPE)
    pages = -(-prompt // PAGE_SIZE)
    kv_caches = [torch.randn(pages, PAGE_SIZE, 1, RANK + D_ROPE, **options)]
    table = torch.randperm(pages, device="cuda").int()[None]
    steps = {
        name: PagedStep.of_lengths(kv_caches, table, [0], [prompt], up_project_from=least)
        for name, least in FORMS.items()
    }

    def call(name: str) -> torch.Tensor:
        return attend(q, latent, rope, up, steps[name], 0, (D_NOPE + D_ROPE) ** -0.5)

    results = {name: call(name).float() for name in FORMS}
    apart = (results["absorbed"] - results["projected_up"]).norm() / results["absorbed"].norm()
    times: dict[str, list[float]] = {name: [] for name in FORMS}
    for i in range(rounds + 1):
        for name in timing.order(list(FORMS), i):
            times[name].append(device_us(lambda name=name: call(name)))
    found = {name: statistics.median(taken[1:]) for name, taken in times.items()}
    return {"us": found, "apart": float(apart), "pays_from": up.pays_from}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--record", type=Path, help="append the records to this file")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--commit", default="", help="of the sources, for the record")
    parser.add_argument("--heads", type=int, action="append")
    args = parser.parse_args()
    facts = records.facts("prefill_forms", args.commit)
    print(facts, flush=True)
    for heads in args.heads or HEADS:
        for prompt in PROMPTS:
            found = measure(heads, prompt, args.rounds)
            records.append(args.record, {**facts, "heads": heads, "prompt": prompt, **found})
            print(
                f"{heads:3} heads, {prompt:5} tokens: absorbed {found['us']['absorbed']:9.1f} us,",
                f"projected up {found['us']['projected_up']:9.1f} us, apart {found['apart']:.1e},",
                f"projected up from {found['pays_from']}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
