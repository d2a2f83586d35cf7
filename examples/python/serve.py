"""Serving demo: continuous batching of production traffic over a paged MLA cache, one plan a step for all layers.

    python examples/python/serve.py                     lengths and arrival rate of the Azure LLM inference trace 2023
    python examples/python/serve.py --trace FILE.csv    replays the published file itself
    python examples/python/serve.py --sparse 512        each token attends at most 512, chosen by a toy indexer

Real: the traffic, the batching, the page pool and table, the cache, every attention call, the checks. Stand-ins: the
model around the attention (stand_in_model.py), and time: a step counts as --step-ms of the trace's clock, however long
it took.
Ends with exit status 1 when a result missed the error bound or a page was lost.
"""

import argparse
import collections
import dataclasses
import functools
import hashlib
import pathlib
import sys
import time

import numpy as np

import report
import traffic
from arrays import choose
from attention_calls import Dense, DenseCall, Sparse, SparseCall
from batcher import PAGE_SIZE, Batcher, pages_for
from checker import Checker
from gpu_limits import LimitMeter
from page_allocator import PageAllocator
from stand_in_model import D_QK, VOCABULARY, StandInModel


@dataclasses.dataclass(frozen=True)
class Scale:
    """Default sizes of a run."""

    heads: int
    layers: int
    max_batch: int
    requests: int
    load: float  # times the published arrival rate
    shorten: int  # lengths are divided by this


GPU_SCALE = Scale(heads=128, layers=4, max_batch=128, requests=1000, load=4, shorten=1)
CPU_SCALE = Scale(heads=16, layers=2, max_batch=24, requests=80, load=1, shorten=1)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Continuous batching of production traffic over a paged MLA cache.",
        epilog="Defaults marked * depend on the device; what they are is said at the start.",
    )

    def positive(text: str) -> int:
        if (value := int(text)) < 1:
            raise argparse.ArgumentTypeError(f"{value} is not positive")
        return value

    add = parser.add_argument
    add("--service", choices=sorted(traffic.SERVICES), default="conv", help="whose lengths to draw (%(default)s)")
    add("--trace", type=pathlib.Path, metavar="FILE", help="replay a published CSV file of the Azure trace instead")
    add("--requests", type=positive, help="how many (*)")
    add("--seconds", type=float, help="of trace time: only requests that arrive within them")
    add("--load", type=float, help="times the published arrival rate (*)")
    add("--shorten", type=positive, help="divide all lengths by this (*)")
    add("--heads", type=positive, help="query heads (*)")
    add("--layers", type=positive, help="attention layers, each with its own cache (*)")
    add("--sparse", type=positive, metavar="TOPK", help="attend at most so many, chosen by a toy indexer (all)")
    add("--max-batch", type=positive, help="requests that run at once (*)")
    add("--pages", type=positive, help="pages of 64 tokens in the pool (enough for 3/4 of a full batch)")
    add("--step-ms", type=float, default=30.0, help="trace time of one step (%(default)s)")
    add("--device", choices=("cpu", "cuda"), help="where to serve (a Hopper GPU if there is one)")
    add("--framework", choices=("numpy", "torch", "cupy"), help="whose arrays to use (the first that fits)")
    add("--check-every", type=positive, default=25, help="steps between checks (%(default)s)")
    add("--seed", type=int, default=0, help="of traffic and numbers (%(default)s)")
    options = parser.parse_args(arguments)
    for name in ("step_ms", "load", "seconds"):
        if (value := getattr(options, name)) is not None and value <= 0:
            parser.error(f"--{name.replace('_', '-')} {value:g} is not positive")
    return options


class Server:
    """Runs steps until nothing waits and nothing runs."""

    def __init__(
        self, arrays: object, batcher: Batcher, *, layers: int, heads: int, seed: int, topk: int | None = None
    ) -> None:
        self.arrays, self.batcher, self.heads = arrays, batcher, heads
        self.attention = Dense(arrays) if topk is None else Sparse(arrays, topk)
        self.model = StandInModel(arrays, layers, heads, seed)
        # Slots that no token was written to hold NaN: one that gets into a result shows.
        shape = (batcher.allocator.num_pages, PAGE_SIZE, 1, D_QK)
        self.caches = [arrays.full(shape, float("nan")) for _ in range(layers)]
        self.tokens = np.zeros(0, np.int64)  # the newest of each running request

    def prefill(self) -> None:
        """Admits what fits and leaves in the cache what a prefill would."""
        for row in self.batcher.admit():
            sequence = self.batcher.running[row]
            at = np.arange(sequence.request.context)
            pages = self.arrays.from_host(np.array(sequence.pages)[at // PAGE_SIZE])
            slots = self.arrays.from_host(at % PAGE_SIZE)
            for layer, cache in enumerate(self.caches):
                cache[pages, slots, 0] = self.model.prompt_latents(layer, sequence.request.number, len(at))
            self.tokens = np.append(self.tokens, sequence.request.number % VOCABULARY)

    def step(self) -> list[DenseCall] | list[SparseCall]:
        """One token for every running request. Returns the call of each layer."""
        arrays = self.arrays
        pages, slots = map(arrays.from_host, self.batcher.grow())
        self.attention.begin(self.batcher)
        hidden = self.model.embed(arrays.from_host(self.tokens))
        calls = []
        for layer, cache in enumerate(self.caches):
            cache[pages, slots, 0] = self.model.latent(layer, hidden)
            calls.append(self.attention.attend(self.model.query(layer, hidden), cache, hidden))
            hidden = self.model.after_attention(layer, hidden, calls[-1].out)
        self.tokens = arrays.to_host(self.model.next_token(hidden))
        return calls

    def retire(self) -> None:
        self.tokens = self.tokens[self.batcher.retire()]


def decode_again(calls: list[DenseCall] | list[SparseCall]) -> None:
    for call in calls:
        call.again()


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
    server: Server,
    requests: list[traffic.Request],
    checker: Checker,
    meter: LimitMeter | None,
    options: argparse.Namespace,
) -> report.Totals:
    """Serves all requests; every so many steps the calls are checked and, on a GPU, timed again."""
    batcher = server.batcher
    progress, totals, digest = report.Progress(len(requests)), report.Totals(), hashlib.sha256()
    arriving = collections.deque(requests)
    clock = 0.0
    while arriving or batcher.waiting or batcher.running:
        if not batcher.waiting and not batcher.running:
            clock = max(clock, arriving[0].arrival)  # nothing to do until the next request comes
        while arriving and arriving[0].arrival <= clock:
            batcher.submit(arriving.popleft())

        begin = time.perf_counter()
        server.prefill()
        if not batcher.running:  # all that waited was refused
            continue
        server.arrays.synchronize()
        decode_begin = time.perf_counter()
        calls = server.step()
        decode_end = time.perf_counter()

        attended = server.attention.tokens(batcher)
        totals.add_step(len(batcher), attended, decode_begin - begin, decode_end - decode_begin)
        digest.update(server.tokens.tobytes())
        if (totals.steps - 1) % options.check_every == 0:
            checker.check(calls)
            if meter:
                meter.measure(functools.partial(decode_again, calls), len(calls), server.heads, attended)
        server.retire()
        clock += options.step_ms / 1e3
        progress.show(totals, batcher, checker)
    progress.end()
    totals.clock, totals.digest = clock, digest.hexdigest()[:16]
    return totals


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
    except (OSError, ValueError) as error:
        print(f"serve.py: {error}", file=sys.stderr)
        return 2

    longest = max(pages_for(r.tokens) for r in requests)
    mean_pages = sum(pages_for(r.tokens) for r in requests) / len(requests)
    allocator = PageAllocator(options.pages or max(longest, int(scale.max_batch * mean_pages * 3 / 4)))
    batcher = Batcher(allocator, scale.max_batch, longest)
    facts = {"layers": scale.layers, "heads": scale.heads, "seed": options.seed}
    server = Server(arrays, batcher, **facts, topk=options.sparse)
    checker = Checker(arrays, options.seed)
    meter = LimitMeter(arrays) if arrays.device == "cuda" else None
    report.introduce(arrays.describe(), why_not_gpu, options, scale)
    report.describe_traffic(requests, options, scale)
    totals = serve(server, requests, checker, meter, options)
    return report.conclude(totals, batcher, checker, meter)


if __name__ == "__main__":
    sys.exit(main())
