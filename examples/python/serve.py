"""Serving demo: continuous batching of production traffic over a `PagedKVCache`, profiled and checked.

    python examples/python/serve.py                     lengths and arrival rate of the Azure LLM inference trace 2023
    python examples/python/serve.py --trace FILE.csv    replays the published file itself
    python examples/python/serve.py --sparse 512        each token attends at most 512, chosen by a toy indexer

Real: the traffic, the batching, the pool of pages and its swaps, the attention layers, the checks. Stand-ins: the rest
of the model, its weights and the words of prompts (stand_in_model.py, traffic.py), and time: a step counts as --step-ms
of the trace's clock, however long it took.
Ends with tables, a picture of throughput and pages over time, and exit status 1 when a result missed its bound or a
page was lost.
"""

import argparse
import collections
import dataclasses
import functools
import math
import pathlib
import sys
import time
from typing import Any

import blas_threads  # noqa: F401 - the first of all, by what it does
import flashmla
import report
import timeline
import traffic
from arrays import choose
from attended import Attended
from checker import Checker
from scheduler import PAGE_SIZE, Scheduler, pages_for
from stand_in_model import VOCABULARY, ArrayModel, make_model

PICTURE = pathlib.Path(__file__).resolve().parents[2] / "build" / "demo.svg"


@dataclasses.dataclass(frozen=True)
class Scale:
    """Default sizes of a run."""

    heads: int
    layers: int
    max_batch: int
    requests: int
    load: float  # times the published arrival rate
    shorten: int  # lengths are divided by this
    step_tokens: int  # of prompts in a step, at most


GPU_SCALE = Scale(heads=128, layers=4, max_batch=128, requests=300, load=4, shorten=1, step_tokens=4096)
CPU_SCALE = Scale(heads=16, layers=2, max_batch=24, requests=80, load=1, shorten=4, step_tokens=512)
MOST_RECORDS = 1 << 17  # of calls, in the profile


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Continuous batching of production traffic over a pool of pages, profiled and checked.",
        epilog="Defaults marked * depend on the device; what they are is said at the start.",
    )

    def positive(text: str) -> int:
        if (value := int(text)) < 1:
            raise argparse.ArgumentTypeError(f"{value} is not positive")
        return value

    def heads(text: str) -> int:
        if (value := int(text)) not in range(1, 129):
            raise argparse.ArgumentTypeError(f"{value} is not in 1 ... 128")
        return value

    def amount(text: str) -> float:
        if not 0 < (value := float(text)) < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not positive and finite")
        return value

    add = parser.add_argument
    add("--service", choices=sorted(traffic.SERVICES), default="conv", help="whose lengths to draw (%(default)s)")
    add("--trace", type=pathlib.Path, metavar="FILE", help="replay a published CSV file of the Azure trace instead")
    add("--requests", type=positive, help="how many (*)")
    add("--seconds", type=amount, help="of trace time: only requests that arrive within them")
    add("--load", type=amount, help="times the published arrival rate (*)")
    add("--shorten", type=positive, help="divide all lengths by this (*)")
    add("--heads", type=heads, help="query heads, at most 128 (*)")
    add("--layers", type=positive, help="attention layers, each with its own cache (*)")
    add("--sparse", type=positive, metavar="TOPK", help="attend at most so many, chosen by a toy indexer (all)")
    add("--max-batch", type=positive, help="requests that run at once (*)")
    add("--step-tokens", type=positive, help="tokens of prompts in a step, at most (*)")
    add("--pages", type=positive, help="pages of 64 tokens in the pool (enough for a third of a full batch)")
    add("--host-pages", type=positive, help="pages in host memory, for what is swapped out (as many)")
    add("--prefixes", type=positive, default=4, help="system prompts that prompts begin with (%(default)s)")
    add("--prefix-tokens", type=positive, default=192, help="their lengths (%(default)s)")
    add("--step-ms", type=amount, default=30.0, help="trace time of one step (%(default)s)")
    add("--device", choices=("cpu", "cuda"), help="where to serve (a Hopper GPU if there is one)")
    add("--framework", choices=("numpy", "torch", "cupy"), help="whose arrays to use (the first that fits)")
    add("--picture", type=pathlib.Path, metavar="FILE", default=PICTURE, help="the SVG (build/demo.svg)")
    add("--check-every", type=positive, default=25, help="steps between checks (%(default)s)")
    add("--seed", type=int, default=0, help="of traffic and numbers (%(default)s)")
    return parser.parse_args(arguments)


def read_requests(options: argparse.Namespace, scale: Scale) -> list[traffic.Request]:
    """What will arrive: the first `requests` of the trace, those of its first `seconds`, or both limits."""
    count = options.requests or (None if options.seconds else scale.requests)
    if options.trace:
        requests = traffic.replay(options.trace, count, scale.load)
    else:
        service = traffic.SERVICES[options.service]
        requests = traffic.draw(
            service, count or service.enough_for(options.seconds, scale.load), scale.load, options.seed
        )
    if options.seconds:
        requests = [r for r in requests if r.arrival <= options.seconds]
    return [r.shortened(scale.shorten) for r in requests]


def serve(
    model: ArrayModel,
    scheduler: Scheduler,
    requests: list[traffic.Request],
    checker: Checker,
    options: argparse.Namespace,
) -> report.Totals:
    """Serves all requests; every so many steps what attention did is checked."""
    prompts = traffic.Prompts(options.prefixes, options.prefix_tokens, VOCABULARY, options.seed)
    progress, totals, cache = report.Progress(len(requests)), report.Totals(), scheduler.cache
    arriving = collections.deque(requests)
    while arriving or scheduler:
        if not scheduler:
            totals.clock = max(totals.clock, arriving[0].arrival)  # nothing to do until the next request comes
        while arriving and arriving[0].arrival <= totals.clock:
            scheduler.submit(arriving[0], prompts.of(arriving.popleft()))
        if not scheduler:  # it was refused
            continue
        seen: list[Attended] | None = None if checker.compared and len(totals.samples) % options.check_every else []
        began = time.perf_counter()
        step, tokens, pieces = scheduler.next_step(functools.partial(model.begin, cache, seen=seen))
        follow = model.run(cache, step, tokens)
        seconds = time.perf_counter() - began
        if seen is not None:
            lengths = [cache.length(served.sequence) for served in pieces]
            checker.check(seen, list(pieces.values()), lengths)
        new = scheduler.take(pieces, follow)
        totals.add_step(seconds, len(tokens) - new, new, cache.usage())
        totals.digest.update(repr(follow).encode())
        totals.clock += options.step_ms / 1e3
        progress.show(totals, scheduler, checker)
    progress.end()
    return totals


def pool_for(model: ArrayModel, requests: list[traffic.Request], scale: Scale, options: argparse.Namespace) -> Any:
    """A pool too small for a full batch, so that sequences are swapped out, and host memory of its size."""
    longest = max(pages_for(r.tokens) for r in requests)
    mean_pages = sum(pages_for(r.tokens) for r in requests) / len(requests)
    pages = options.pages or max(longest, int(scale.max_batch * mean_pages / 3))
    shape = {"num_blocks": pages, "page_size": PAGE_SIZE, "num_host_blocks": options.host_pages or pages}
    slots = scale.max_batch + scale.step_tokens
    return model.make_cache(**shape, max_seqs=scale.max_batch, max_seq_len=longest * PAGE_SIZE, max_slots=slots)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    arrays, why_not_gpu = choose(options.framework, options.device)
    if options.sparse and arrays.device == "cuda" and arrays.dtype_name != "bfloat16":
        print(f"serve.py: sparse attention on a GPU is in bfloat16, not {arrays.describe()}", file=sys.stderr)
        return 2
    scale = CPU_SCALE if arrays.device == "cpu" else GPU_SCALE
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(Scale)}
    scale = dataclasses.replace(scale, **{name: value for name, value in given.items() if value is not None})
    try:
        requests = read_requests(options, scale)
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        options.picture.touch()  # before the run, not behind it, it turns out whether it can be written
    except (OSError, ValueError) as error:
        print(f"serve.py: {error}", file=sys.stderr)
        return 2

    model = make_model(arrays, layers=scale.layers, heads=scale.heads, seed=options.seed, topk=options.sparse)
    cache = pool_for(model, requests, scale, options)
    scheduler = Scheduler(cache, scale.max_batch, scale.max_batch + scale.step_tokens)
    checker = Checker(arrays, options.seed, "sparse_decode" if options.sparse else "dense_decode")
    report.introduce(arrays.describe(), why_not_gpu, options, scale)
    report.describe_traffic(requests, options, scale)
    with flashmla.profile(lengths=True, max_records=MOST_RECORDS) as profile:
        totals = serve(model, scheduler, requests, checker, options)
    status = report.conclude(totals, scheduler, checker, profile)
    if totals.samples:
        print()
        timeline.draw(totals.samples)
        title = f"{len(requests)} requests with {arrays.describe()}"
        options.picture.write_text(timeline.picture(totals.samples, title, cache.num_blocks))
        print(f"\n  as a picture: {options.picture}")
    return status


if __name__ == "__main__":
    sys.exit(main())
