"""Requests that arrive as those of a production LLM service did.

Source of every figure below: Azure LLM inference trace 2023 (https://github.com/Azure/AzurePublicDataset, CC-BY 4.0),
one hour of two services on 2023-11-16; described in Patel et al., "Splitwise: Efficient Generative LLM Inference Using
Phase Splitting", ISCA 2024.
"""

import csv
import dataclasses
import datetime as dt
import math
import pathlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class Request:
    number: int
    arrival: float  # seconds since the first request
    context: int  # tokens of the prompt
    generated: int  # tokens to generate

    @property
    def tokens(self) -> int:
        return self.context + self.generated

    def shortened(self, factor: int) -> "Request":
        """The same request with both lengths divided by `factor`; neither falls below one token."""
        shorter = (max(1, math.ceil(length / factor)) for length in (self.context, self.generated))
        return Request(self.number, self.arrival, *shorter)


@dataclasses.dataclass(frozen=True)
class Service:
    """One service of the trace: how many requests came in its hour, and the lengths at the quantiles LEVELS."""

    requests: int
    context: tuple[int, ...]
    generated: tuple[int, ...]

    def rate(self, load: float) -> float:
        """Mean arrivals a second at `load` times the published number."""
        return load * self.requests / TRACE_SECONDS

    def enough_for(self, seconds: float, load: float) -> int:
        """More requests than will come in `seconds`: six standard deviations above the mean, and one."""
        mean = self.rate(load) * seconds
        return math.ceil(mean + 6 * math.sqrt(mean)) + 1


class Prompts:
    """The tokens of prompts, which the trace does not tell. Every other one begins with one of a few system prompts."""

    def __init__(self, systems: int, tokens: int, vocabulary: int, seed: int) -> None:
        self._vocabulary, self._seed = vocabulary, seed
        self._systems = np.random.default_rng(seed).integers(vocabulary, size=(systems, tokens)).tolist()

    def of(self, request: Request) -> list[int]:
        turn, own = divmod(request.number, 2)
        shared = [] if own or not self._systems else self._systems[turn % len(self._systems)][: request.context]
        rng = np.random.default_rng((self._seed, request.number))
        return shared + rng.integers(self._vocabulary, size=request.context - len(shared)).tolist()


TRACE_SECONDS = 3600.0
LEVELS = (0, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 1)
SERVICES = {
    "conv": Service(
        requests=19_366,
        context=(2, 181, 207, 396, 1020, 1189, 2734, 4083, 4142, 14050),
        generated=(7, 41, 54, 85, 129, 395, 424, 451, 601, 1000),
    ),
    "code": Service(
        requests=8_819,
        context=(3, 75, 147, 578, 1469, 2744, 5186, 7302, 7436, 7437),
        generated=(6, 6, 7, 9, 13, 24, 55, 90, 249, 1899),
    ),
}


def draw(service: Service, count: int, load: float, seed: int) -> list[Request]:
    """`count` requests that arrive as a Poisson process at `load` times the published mean rate.

    Lengths come from the piecewise-linear inverse of the published distribution function. The quantiles do not tell how
    the two lengths depend on each other: they are drawn apart. Straight lines make the long tails heavier than they
    were: mean lengths come out above the published ones, most of all the generated length of `code`, whose last
    hundredth spans 249 to 1,899 tokens.
    """
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / service.rate(load), count))
    context, generated = (
        np.rint(np.interp(rng.random(count), LEVELS, values)).astype(int)
        for values in (service.context, service.generated)
    )
    columns = zip(arrivals - arrivals[:1], context, generated, strict=True)
    return [Request(number, float(a), int(c), int(g)) for number, (a, c, g) in enumerate(columns)]


def replay(path: pathlib.Path, count: int | None, load: float) -> list[Request]:
    """The first `count` requests (None: all) of a published CSV file; `load` > 1 brings them closer together."""
    requests: list[Request] = []
    first = None
    with path.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            if count is not None and len(requests) == count:
                break
            try:
                # The file gives 100 ns; Python 3.10 reads no more than microseconds, 26 characters.
                time = dt.datetime.fromisoformat(row["TIMESTAMP"][:26])
                context, generated = int(row["ContextTokens"]), int(row["GeneratedTokens"])
            except (KeyError, TypeError, ValueError) as error:
                line = len(requests) + 2
                raise ValueError(
                    f"{path}, line {line}: expected TIMESTAMP,ContextTokens,GeneratedTokens, found {row}"
                ) from error
            first = first or time
            arrival = (time - first).total_seconds() / load
            requests.append(Request(len(requests), arrival, max(1, context), max(1, generated)))
    if not requests:
        raise ValueError(f"{path}: no requests")
    return requests
