"""A server that survives failures: every request is finished, and what happened is reported.

    python examples/python/survivor.py                 two failures, saved on the CPU
    python examples/python/survivor.py --lost          the context is lost: the server begins again from host memory

It serves from a Hopper GPU where there is one, else on the CPU.
A failure of the machine is asked for with flashmla.fail_next. A call that fails is made on the CPU (flashmla.on_error).
Where the CUDA context is lost nothing on the device can be used: the server then starts its engine again, which a real
one does in a new process, and prefills its requests from their tokens, which it has on the host.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import warnings

import numpy as np

import flashmla
from arrays import Array, choose

PAGE, HEADS, D_QK, D_V, PAGES = 64, 16, 576, 512, 64
CONTEXT_LOST = 302  # FLASHMLA_ERROR_CONTEXT_LOST


@dataclasses.dataclass
class Request:
    """Tokens lie in host memory, whatever becomes of the cache."""

    tokens: list[int]
    wanted: int

    @property
    def done(self) -> bool:
        return self.wanted == 0


class Engine:
    """The cache and the attention. A stand-in of one layer: a token's latent and query follow from its number."""

    def __init__(self, requests: list[Request], device: str | None) -> None:
        self._arrays, _ = choose(None, device)
        self._latents = np.random.default_rng(0).standard_normal((256, D_QK)).astype(np.float32)
        self._rows = self._arrays.full(self._latents.shape, 0.0)
        self._rows[...] = self._arrays.from_host(self._latents)
        self._cache = self._arrays.full((PAGES, PAGE, 1, D_QK), 0.0)
        each = PAGES // len(requests)
        self._pages = np.arange(len(requests) * each, dtype=np.int32).reshape(len(requests), each)
        self._table = self._arrays.from_host(self._pages)
        for row, request in enumerate(requests):
            self._write(row, 0, request.tokens)

    def _write(self, row: int, begin: int, tokens: list[int]) -> None:
        at = np.arange(begin, begin + len(tokens))
        slots = self._pages[row, at // PAGE].astype(np.int64) * PAGE + at % PAGE
        flashmla.append_kv(self._cache, self._rows[tokens], None, self._arrays.from_host(slots))

    def _queries(self, requests: list[Request]) -> Array:
        """Of the last tokens, each the latent of another one, so that it is no answer to itself."""
        asked = [(7 * request.tokens[-1] + 3) % 256 for request in requests for _ in range(HEADS)]
        return self._rows[asked].reshape(len(requests), 1, HEADS, D_QK)

    def step(self, requests: list[Request]) -> None:
        """A token more for each request that is not done: the one that its attention comes closest to."""
        lengths = self._arrays.from_host(np.array([len(request.tokens) for request in requests], np.int32))
        out, _ = flashmla.dense_decode(self._queries(requests), self._cache, self._table, lengths)
        found = (self._arrays.to_host(out[:, 0, 0]) @ self._latents[:, :D_V].T).argmax(axis=1)
        for row, request in enumerate(requests):
            if not request.done:
                request.tokens.append(int(found[row]))
                request.wanted -= 1
                self._write(row, len(request.tokens) - 1, request.tokens[-1:])


def requests_of_the_demo() -> list[Request]:
    return [Request([(11 * i + 7 * j * j) % 256 for j in range(40 + 30 * i)], 10 + i) for i in range(4)]


def survive(failure: flashmla.Failure) -> tuple:
    """The policy: what the context is needed for is not tried again."""
    if failure.error.status == CONTEXT_LOST:
        raise failure.error
    return failure.on_cpu()


def serve(requests: list[Request], failures: dict[int, int], device: str | None = None) -> int:
    """Serves all requests; `failures`: by step, the status that its attention ends with. How often it began again."""
    restarts, step, engine = 0, 0, Engine(requests, device)
    while not all(request.done for request in requests):
        if step in failures:
            flashmla.fail_next("dense_decode", failures.pop(step))
        try:
            engine.step(requests)
        except flashmla.DeviceError as error:
            print(f"step {step}: {error}: beginning again from the tokens of {len(requests)} requests")
            restarts, engine = restarts + 1, Engine(requests, device)
            continue
        step += 1
    return restarts


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--lost", action="store_true", help="the second failure loses the context")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where to serve (a Hopper GPU if there is one)")
    options = parser.parse_args(arguments)
    requests = requests_of_the_demo()
    tokens = sum(request.wanted for request in requests)
    flashmla.metrics()
    before = flashmla.on_error(survive)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the report tells them
            second = CONTEXT_LOST if options.lost else 200
            restarts = serve(requests, {3: 301, 6: second}, options.device)
    finally:
        flashmla.on_error(before)
    print(f"requests finished  {sum(request.done for request in requests)} of {len(requests)}, {tokens} tokens")
    print(f"engine restarts    {restarts}")
    for one in flashmla.fallbacks():
        print(f"saved on the CPU   {one.count} of {one.operation}, status {one.status}: {one.reason}")
    print("".join(line for line in flashmla.metrics().splitlines(keepends=True) if line.startswith("flashmla_errors")))
    return 0 if all(request.done for request in requests) else 1


if __name__ == "__main__":
    sys.exit(main())
