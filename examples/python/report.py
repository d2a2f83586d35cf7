"""What the serving demo says: an introduction, a line of progress, the tables at the end."""

import argparse
import dataclasses
import hashlib
import shutil
import sys
import textwrap
import time
from typing import Any

import flashmla
from checker import Checker
from scheduler import PAGE_SIZE, Scheduler
from timeline import Sample
from traffic import Request


@dataclasses.dataclass
class Totals:
    """Of a run."""

    samples: list[Sample] = dataclasses.field(default_factory=list)
    prompt_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    clock: float = 0.0  # trace time
    most_used: int = 0
    most_shared: int = 0
    most_swapped: int = 0
    digest: Any = dataclasses.field(default_factory=hashlib.sha256)

    def add_step(self, seconds: float, prompt_tokens: int, new_tokens: int, usage: flashmla.PoolUsage) -> None:
        """`usage` of the pool behind the step."""
        self.seconds += seconds
        self.prompt_tokens += prompt_tokens
        self.new_tokens += new_tokens
        swapped = usage.num_host_blocks - usage.host_free
        self.most_used = max(self.most_used, usage.used)
        self.most_shared = max(self.most_shared, usage.shared)
        self.most_swapped = max(self.most_swapped, swapped)
        self.samples.append(Sample(self.seconds, seconds, prompt_tokens, new_tokens, usage.used, usage.cached, swapped))


def introduce(arrays: str, why_not_gpu: str, options: argparse.Namespace, scale: Any) -> None:
    if why_not_gpu:
        print(f"No GPU is used: {why_not_gpu}.")
    print(f"Serving with {arrays}: {scale.heads} query heads, {scale.layers} layers")
    print(f"  (DeepSeek V3 has 128 and 61), at most {scale.max_batch} requests at once.")
    if options.sparse:
        print(f"Each token attends at most {options.sparse} tokens, which a toy indexer chooses.")
    print(f"A step counts as {options.step_ms:g} ms of trace time; every {options.check_every}th step is checked.")


def describe_traffic(requests: list[Request], options: argparse.Namespace, scale: Any) -> None:
    source = options.trace or f"quantiles of the Azure LLM inference trace 2023, {options.service}"
    context, generated = (
        sum(getattr(request, name) for request in requests) / len(requests) for name in ("context", "generated")
    )
    print(f"Traffic: {source} (Azure/AzurePublicDataset, CC-BY 4.0; Patel et al., ISCA 2024).")
    print(f"  {len(requests)} requests in {requests[-1].arrival:.0f} s of trace time, arrival rate x {scale.load:g};")
    shortened = f", after division by {scale.shorten} to suit this machine" if scale.shorten > 1 else ""
    print(f"  mean context {context:.0f}, generated {generated:.0f} tokens{shortened};")
    print(
        f"  every other prompt begins with one of {options.prefixes} system prompts of {options.prefix_tokens} tokens."
    )


class Progress:
    """One line that rewrites itself on a terminal; a plain line every few seconds elsewhere."""

    def __init__(self, requests: int) -> None:
        self._requests = requests
        self._terminal = sys.stdout.isatty()
        self._pause = 0.1 if self._terminal else 2.0  # seconds between lines
        self._next = 0.0

    def show(self, totals: Totals, scheduler: Scheduler, checker: Checker) -> None:
        if (now := time.perf_counter()) < self._next:
            return
        self._next = now + self._pause
        usage = scheduler.cache.usage()
        line = (
            f"finished {scheduler.counts.finished}/{self._requests}  running {len(scheduler.running)}  "
            f"waiting {len(scheduler.waiting)}  swapped {len(scheduler.swapped)}  "
            f"pages {usage.used}/{usage.num_blocks}  tokens {totals.new_tokens}  worst error {checker.worst_error:.1e}"
        )
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1  # a longer line would wrap and could not be rewritten
            print(f"\r{line[:width]:<{width}}", end="", flush=True)
        else:
            print(line, flush=True)

    def end(self) -> None:
        if self._terminal:
            print()


def print_table(rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    print()
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")


def operations(groups: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """A row for each operation of a profile: all its shapes together."""
    rows = []
    for name in dict.fromkeys(group["operation"] for group in groups):
        of = [group for group in groups if group["operation"] == name]
        timed = [group for group in of if group["seconds"]]
        seconds = sum(group["seconds"] for group in timed)
        every = sum(group["seconds"] / group["timed_calls"] * group["calls"] for group in timed)
        words = [f"{sum(group['calls'] for group in of):,} calls", f"{every:.2f} s"]
        for fact, unit, scale in (("bytes_per_second", "GB/s", 1e9), ("flop_per_second", "TFLOP/s", 1e12)):
            done = sum(group[fact] * group["seconds"] for group in timed if group[fact])
            if done:
                rate = done / seconds / scale
                words.append(f"{rate:,.0f} {unit}" if rate >= 100 else f"{rate:.3g} {unit}")
        shares = [(group["limit_share"], group["seconds"]) for group in timed if group["limit_share"] is not None]
        if shares:
            words.append(f"{sum(share * s for share, s in shares) / sum(s for _, s in shares):.0%} of the limit")
        rows.append((name, ", ".join(words)))
    return rows


def conclude(totals: Totals, scheduler: Scheduler, checker: Checker, profile: flashmla.Profile) -> int:
    """Prints the tables; returns the exit status."""
    counts, usage = scheduler.counts, scheduler.cache.usage()
    refused = f", {counts.refused} refused (longer than the pool)" if counts.refused else ""
    restarted = f", {counts.restarted} begun anew" if counts.restarted else ""
    rate = totals.new_tokens / max(totals.seconds, 1e-9)
    pages = f"{totals.most_used} at most, of {usage.num_blocks} of {PAGE_SIZE} tokens"
    found = f"{counts.found_tokens} of {counts.prompt_tokens} prompt tokens found"
    print_table(
        [
            ("requests finished", f"{counts.finished}{refused}"),
            ("steps", f"{len(totals.samples)} in {totals.clock:.0f} s of trace time"),
            ("tokens generated", f"{totals.new_tokens}, beside {totals.prompt_tokens} of prompts"),
            ("tokens/s", f"{rate:.0f} generated, in {totals.seconds:.1f} s of steps, prompts among them"),
            ("pages used", f"{pages}; {usage.used} at the end"),
            (
                "swapped out",
                f"{counts.swapped_out} times, {totals.most_swapped} pages in host memory at most{restarted}",
            ),
            ("shared pages", f"{totals.most_shared} at most; {found}"),
            ("worst error", f"{checker.worst_error:.2e}, {checker.worst_share:.0%} of its bound"),
            ("compared", f"{checker.compared} outputs of one token in one layer"),
            ("digest of the tokens", totals.digest.hexdigest()[:16]),
        ]
    )
    told = profile.to_dict()
    if told["groups"]:
        print_table(operations(told["groups"]))
    width = min(shutil.get_terminal_size().columns, 120)
    for one in {one["rule"]: one for one in reversed(told["advice"])}.values():  # the first of each rule
        words = f"* {one['about']}: {one['sentence']}"
        print(textwrap.fill(words, width, initial_indent="  ", subsequent_indent="    "))
    faults = [checker.complaint]
    if not checker.compared:
        faults.append("nothing was compared, as no request was served")
    if usage.used or usage.sequences:
        faults.append(f"{usage.used} pages of {usage.sequences} sequences are still in use")
    for fault in filter(None, faults):
        print(f"FAILED: {fault}")
    return 1 if any(faults) else 0
