"""What the serving demo says: an introduction, a line of progress, the table at the end."""

import argparse
import dataclasses
import shutil
import sys
import time

from batcher import PAGE_SIZE, Batcher
from checker import Checker
from gpu_limits import LimitMeter
from traffic import Request


@dataclasses.dataclass
class Totals:
    steps: int = 0
    tokens: int = 0
    attended: int = 0  # tokens that attention read, summed over steps, of one layer
    decode_seconds: float = 0.0
    prefill_seconds: float = 0.0
    clock: float = 0.0  # trace time at the end
    digest: str = ""

    def add_step(self, batch: int, attended: int, prefill_seconds: float, decode_seconds: float) -> None:
        self.steps += 1
        self.tokens += batch
        self.attended += attended
        self.prefill_seconds += prefill_seconds
        self.decode_seconds += decode_seconds


def introduce(arrays: str, why_not_gpu: str, options: argparse.Namespace, scale: object) -> None:
    if why_not_gpu:
        print(f"No GPU is used: {why_not_gpu}.")
    print(f"Serving with {arrays}: {scale.heads} query heads, {scale.layers} layers")
    print(f"  (DeepSeek V3 has 128 and 61), at most {scale.max_batch} requests at once.")
    if options.sparse:
        print(f"Each token attends at most {options.sparse} tokens, which a toy indexer chooses.")
    print(f"A step counts as {options.step_ms:g} ms of trace time; every {options.check_every}th step is checked.")


def describe_traffic(requests: list[Request], options: argparse.Namespace, scale: object) -> None:
    source = options.trace or f"quantiles of the Azure LLM inference trace 2023, {options.service}"
    context, generated = (
        sum(getattr(request, name) for request in requests) / len(requests) for name in ("context", "generated")
    )
    print(f"Traffic: {source} (Azure/AzurePublicDataset, CC-BY 4.0; Patel et al., ISCA 2024).")
    print(f"  {len(requests)} requests in {requests[-1].arrival:.0f} s of trace time, arrival rate x {scale.load:g};")
    shortened = f", after division by {scale.shorten} to suit this machine" if scale.shorten > 1 else ""
    print(f"  mean context {context:.0f}, generated {generated:.0f} tokens{shortened}.")


class Progress:
    """One line that rewrites itself on a terminal; a plain line every few seconds elsewhere."""

    def __init__(self, requests: int) -> None:
        self._requests = requests
        self._terminal = sys.stdout.isatty()
        self._pause = 0.1 if self._terminal else 2.0  # seconds between lines
        self._next = 0.0

    def show(self, totals: Totals, batcher: Batcher, checker: Checker) -> None:
        if (now := time.perf_counter()) < self._next:
            return
        self._next = now + self._pause
        pages = f"{batcher.allocator.in_use}/{batcher.allocator.num_pages}"
        line = (
            f"finished {batcher.finished}/{self._requests}  running {len(batcher)}  waiting {len(batcher.waiting)}  "
            f"pages {pages}  step {totals.steps}  tokens {totals.tokens}  worst error {checker.worst_error:.1e}"
        )
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1  # a longer line would wrap and could not be rewritten
            print(f"\r{line[:width]:<{width}}", end="", flush=True)
        else:
            print(line, flush=True)

    def end(self) -> None:
        if self._terminal:
            print()


def conclude(totals: Totals, batcher: Batcher, checker: Checker, meter: LimitMeter | None) -> int:
    """Prints the table; returns the exit status."""
    allocator = batcher.allocator
    refused = f", {batcher.refused} refused (longer than the pool)" if batcher.refused else ""
    steps = max(totals.steps, 1)
    bound = checker.tolerance
    rows = [
        ("requests finished", f"{batcher.finished}{refused}"),
        ("steps", f"{totals.steps} in {totals.clock:.0f} s of trace time"),
        (
            "mean step",
            f"{totals.tokens / steps:.1f} requests, {totals.attended / steps:.0f} tokens attended a layer",
        ),
        ("tokens generated", f"{totals.tokens}"),
        ("tokens/s", f"{totals.tokens / max(totals.decode_seconds, 1e-9):.0f} (steps alone: no prefill, no checks)"),
        ("time", f"{totals.decode_seconds:.1f} s in steps, {totals.prefill_seconds:.1f} s filling prompts"),
        ("pages used", f"{allocator.peak} at most, of {allocator.num_pages} of {PAGE_SIZE} tokens"),
        ("worst error", f"{checker.worst_error:.2e} relative to float64, bound {bound.norm:.0e}"),
        (
            "worst lse error",
            f"{checker.worst_lse_error:.1e}, bound {bound.lse_absolute:.0e}, or {bound.lse_relative:.0e} of lse",
        ),
        ("compared", f"{checker.compared} outputs of one request in one layer"),
        ("digest of the tokens", totals.digest),
    ]
    if meter:
        rows += [
            ("read bandwidth", f"{meter.bytes_per_second / 1e9:.0f} GB/s, measured in this run"),
            ("bf16 or fp16 product", f"{meter.flop_per_second / 1e12:.0f} TFLOP/s, measured in this run"),
            ("share of the limit", f"{meter.share:.0%} (least time for the bytes and FLOP / device time of the calls)"),
        ]
    width = max(len(name) for name, _ in rows)
    print()
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")
    faults = [checker.complaint, f"page allocator: {leaks}" if (leaks := allocator.leaks()) else ""]
    for fault in filter(None, faults):
        print(f"FAILED: {fault}")
    return 1 if any(faults) else 0
