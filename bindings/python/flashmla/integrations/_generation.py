"""Continuous batching: sequences enter a batch, grow token by token, and leave it, each at a step of its own."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from flashmla import PagedKVCache, PoolFullError
from flashmla._cdef import ffi
from flashmla._scalars import EXTENT, integer
from flashmla._words import a
from flashmla.errors import invalid
from flashmla.integrations._step import PagedStep

_CAPACITY: int = ffi.integer_const("FLASHMLA_ERROR_CAPACITY")


@dataclass(eq=False)
class _Request:
    """A prompt with what was added to it. Those of its tokens behind `written` are not in the cache."""

    tokens: list[int]
    most: int  # tokens of both
    prompt: int  # how many of them it began with
    handle: int = 0
    written: int = 0

    def piece(self, budget: int) -> int:
        return min(len(self.tokens) - self.written, budget)


class Batch:
    """Requests that wait, and those that run. Pages run out: the last one to come gives its own back and waits."""

    def __init__(self, cache: PagedKVCache, max_step_tokens: int) -> None:
        self._cache, self._max_step_tokens = cache, max_step_tokens
        self._waiting: deque[_Request] = deque()
        self._running: list[_Request] = []

    def add(self, request: _Request) -> None:
        self._waiting.append(request)

    def __bool__(self) -> bool:
        return bool(self._waiting or self._running)

    def step(self) -> tuple[PagedStep, list[int], list[_Request]]:
        """The next step, its tokens, and whose they are."""
        pieces = self._pieces()
        while True:
            requests, counts = list(pieces), list(pieces.values())
            try:
                step = PagedStep.of_cache(self._cache, [request.handle for request in requests], counts)
            except PoolFullError:
                if len(self._running) == 1:
                    raise
                pieces.pop(self._running[-1], None)
                self._put_back(self._running[-1])
                continue
            tokens: list[int] = []
            for request, count in pieces.items():
                tokens.extend(request.tokens[request.written : request.written + count])
                request.written += count
            return step, tokens, requests

    def leave(self) -> None:
        """Frees what requests have, those that are not done."""
        for request in self._running:
            self._cache.free(request.handle)
        self._running.clear()

    def publish(self, request: _Request) -> None:
        """Whole pages of a prompt serve requests that begin alike, from now on."""
        if request.written <= request.prompt:
            self._cache.commit(request.handle, request.tokens[: request.written])

    def finish(self, request: _Request) -> None:
        """Frees what the request has; whole pages of it may serve requests that begin alike."""
        self._cache.commit(request.handle, request.tokens[: request.written])
        self._cache.free(request.handle)
        self._running.remove(request)

    def _pieces(self) -> dict[_Request, int]:
        """How many tokens each request gets, as many as a step may have: first those that run, then those that wait."""
        pieces: dict[_Request, int] = {}
        budget = self._max_step_tokens
        for request in self._running:
            if budget:
                pieces[request] = request.piece(budget)
                budget -= pieces[request]
        while budget and self._waiting:
            request = self._waiting[0]
            try:
                request.handle, request.written = self._cache.allocate(request.tokens)
            except PoolFullError:
                if not self._running:
                    raise
                break
            self._running.append(self._waiting.popleft())
            pieces[request] = request.piece(budget)
            budget -= pieces[request]
        return pieces

    def _put_back(self, request: _Request) -> None:
        """The request gives its pages to others and begins anew later, with the tokens that it has by now."""
        self._cache.free(request.handle)
        self._running.remove(request)
        self._waiting.appendleft(request)


def generate(
    forward: Callable[[torch.Tensor, PagedStep], torch.Tensor],
    prompts: Sequence[Sequence[int]],
    cache: PagedKVCache,
    *,
    max_new_tokens: int,
    eos_token_ids: int | Collection[int] | None,
    max_step_tokens: int,
    choose: Callable[[torch.Tensor], torch.Tensor],
) -> list[list[int]]:
    """What is added to each prompt; `forward` says the logits behind each sequence's last token of a step."""
    if integer(max_step_tokens, "max_step_tokens", EXTENT) < 1:
        raise invalid("FLASHMLA_ERROR_VALUE", f"max_step_tokens is {max_step_tokens}; it must be at least 1")
    ends, more = _ends(eos_token_ids), integer(max_new_tokens, "max_new_tokens", EXTENT)
    requests = []
    for number, prompt in enumerate(prompts):
        tokens = _token_ids(prompt, f"prompts[{number}]")
        requests.append(_Request(tokens, len(tokens) + more, len(tokens)))
        _check_request(requests[-1], f"prompts[{number}]", more, cache)
    batch = Batch(cache, min(max_step_tokens, cache.slot_mapping.shape[0]))
    for request in requests:
        if len(request.tokens) < request.most:
            batch.add(request)
    try:
        _run(batch, forward, cache, ends, choose)
    finally:
        batch.leave()
    return [request.tokens[len(prompt) :] for request, prompt in zip(requests, prompts, strict=True)]


def _ends(eos_token_ids: Any) -> frozenset[int]:
    """Token ids, as configurations have them: several, one, or none."""
    if eos_token_ids is None:
        return frozenset()
    try:
        return frozenset([operator.index(eos_token_ids)])
    except TypeError:
        pass  # it is not one
    try:
        return frozenset(map(operator.index, eos_token_ids))
    except TypeError:
        raise TypeError(f"eos_token_ids is {a(eos_token_ids)}: an integer, or several, are needed") from None


def _token_ids(prompt: Any, name: str) -> list[int]:
    try:
        return [*map(operator.index, prompt)]
    except TypeError:
        raise TypeError(f"{name} is {a(prompt)}: its token ids are needed") from None


def _check_request(request: _Request, name: str, max_new_tokens: int, cache: PagedKVCache) -> None:
    """What has no tokens, or would not fit into the cache if it were alone there. The last token is not written."""
    if not request.tokens:
        raise invalid("FLASHMLA_ERROR_ZERO_EXTENT", f"{name} has no tokens")
    room = min(cache.block_table.shape[1], cache.num_blocks) * cache.page_size
    if len(request.tokens) < request.most and request.most - 1 > room:
        words = f"{name} has {len(request.tokens)} tokens and gets {max_new_tokens}"
        raise PoolFullError(f"{words}; the cache has room for {room} of a sequence, of all but its last", _CAPACITY)


def _run(
    batch: Batch,
    forward: Callable[[torch.Tensor, PagedStep], torch.Tensor],
    cache: PagedKVCache,
    ends: frozenset[int],
    choose: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    """Steps until every request has its tokens."""
    device = cache.block_table.device
    while batch:
        step, tokens, of_step = batch.step()
        chosen = choose(forward(torch.tensor(tokens, device=device), step)).tolist()
        for request, token in zip(of_step, chosen, strict=True):
            batch.publish(request)
            if request.written < len(request.tokens):
                continue  # the rest of its prompt comes first
            request.tokens.append(token)
            if len(request.tokens) == request.most or token in ends:
                batch.finish(request)
