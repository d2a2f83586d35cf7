"""A server that survives failures: every request is finished, and what happened is reported.

    python examples/python/survivor.py                 two failures, saved on the CPU
    python examples/python/survivor.py --lost          the context is lost: the server begins again from host memory

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

    def __init__(self, requests: list[Request]) -> None:
        self._rows = np.random.default_rng(0).standard_normal((256, D_QK)).astype(np.float32)
        self._cache = np.zeros((PAGES, PAGE, 1, D_QK), np.float32)
        each = PAGES // len(requests)
        self._table = np.arange(len(requests) * each, dtype=np.int32).reshape(len(requests), each)
        for row, request in enumerate(requests):
            self._write(row, 0, request.tokens)

    def _write(self, row: int, begin: int, tokens: list[int]) -> None:
        at = np.arange(begin, begin + len(tokens))
        slots = self._table[row, at // PAGE].astype(np.int64) * PAGE + at % PAGE
        flashmla.append_kv(self._cache, self._rows[tokens], None, slots)

    def step(self, requests: list[Request]) -> None:
        """A token more for each request that is not done."""
        lengths = np.array([len(request.tokens) for request in requests], np.int32)
        last = [request.tokens[-1] for request in requests]
        q = np.repeat(self._rows[last][:, None, None], HEADS, axis=2)
        out, _ = flashmla.dense_decode(q, self._cache, self._table, lengths)
        found = np.abs(out[:, 0, 0] @ self._rows[:, :D_V].T).argmax(axis=1)
        for row, request in enumerate(requests):
            if not request.done:
                request.tokens.append(int(found[row]))
                request.wanted -= 1
                self._write(row, len(request.tokens) - 1, request.tokens[-1:])


def survive(failure: flashmla.Failure) -> tuple:
    """The policy: what the context is needed for is not tried again."""
    if failure.error.status == CONTEXT_LOST:
        raise failure.error
    return failure.on_cpu()


def serve(requests: list[Request], failures: dict[int, int]) -> int:
    """Serves all requests; `failures`: by step, the status that its attention ends with. How often it began again."""
    restarts, step, engine = 0, 0, Engine(requests)
    while not all(request.done for request in requests):
        if step in failures:
            flashmla.fail_next("dense_decode", failures.pop(step))
        try:
            engine.step(requests)
        except flashmla.DeviceError as error:
            print(f"step {step}: {error}: beginning again from the tokens of {len(requests)} requests")
            restarts, engine = restarts + 1, Engine(requests)
            continue
        step += 1
    return restarts


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--lost", action="store_true", help="the second failure loses the context")
    options = parser.parse_args(arguments)
    requests = [Request([7 * i + 1] * (40 + 30 * i), 10 + i) for i in range(4)]
    tokens = sum(request.wanted for request in requests)
    flashmla.metrics()
    before = flashmla.on_error(survive)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the report tells them
            restarts = serve(requests, {3: 301, 6: CONTEXT_LOST if options.lost else 200})
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
