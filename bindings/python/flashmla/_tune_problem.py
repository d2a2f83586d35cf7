"""Tensors of a case on a GPU, and its calls with one choice or another."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import flashmla
from flashmla import _tuning
from flashmla._formats import KvFormat, kv_format_number
from flashmla._library import lib
from flashmla._tune_cases import PAGE_SIZE, SPARSE, Shape
from flashmla._tune_device import Calls

_LEAST_TOKENS = 1 << 20  # of a cache: calls in turn find little of what they read in the L2 cache
_APART_BYTES = 200 << 20  # that calls in turn read together
_MOST_TURNS = 16
_MOST_SHARE = 0.7  # of free memory, for a cache
_CHUNK = 1 << 18  # tokens that are filled at a time
_GOLDEN = 0.6180339887  # fractions of its multiples lie evenly


class Caches:
    """KV caches of random tokens, one at a time."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        self._key: Any = None
        self._pages: Any = None

    def of(self, shape: Shape, tokens: int) -> Any:
        """(num_blocks, page_size, h_kv, elements) with room for so many tokens, if there is as much memory."""
        page = shape.page_size or PAGE_SIZE
        key = (shape.kv_format, shape.dtype, shape.d_qk, shape.h_kv, page)
        tokens = max(tokens, _LEAST_TOKENS)
        if key != self._key or len(self._pages) * page < tokens:
            self._key = self._pages = None
            self.torch.cuda.empty_cache()
            self._pages, self._key = self._made(shape, page, tokens), key
        return self._pages

    def _made(self, shape: Shape, page: int, tokens: int) -> Any:
        torch = self.torch
        coded = shape.kv_format != "bf16"
        columns = _token_bytes(shape) if coded else shape.d_qk
        dtype = torch.uint8 if coded else getattr(torch, shape.dtype)
        row = columns * shape.h_kv * dtype.itemsize
        blocks = min(-(-tokens // page), int(torch.cuda.mem_get_info()[0] * _MOST_SHARE) // (row * page))
        pages = torch.empty(blocks, page, shape.h_kv, columns, dtype=dtype, device="cuda")
        for begin in range(0, blocks * page, _CHUNK):
            count = min(_CHUNK, blocks * page - begin)
            if not coded:
                pages.view(-1, shape.h_kv, columns)[begin : begin + count].normal_()
                continue
            rows = torch.randn(count, shape.d_qk, device="cuda").bfloat16()
            slots = torch.arange(begin, begin + count, device="cuda")
            flashmla.append_kv(pages, rows, None, slots, kv_format=cast("KvFormat", shape.kv_format))
        return pages


def _token_bytes(shape: Shape) -> int:
    """Of a format that quantises; of one whose rows may be of any length a byte a column."""
    return int(lib.flashmla_kv_token_bytes(kv_format_number(shape.kv_format))) or shape.d_qk


@dataclass(frozen=True)
class Lengths:
    """Of the requests: all `tokens`, or from a quarter of them up to twice as many."""

    tokens: int
    ragged: bool

    def of(self, batch: int, most: int) -> list[int]:
        tokens = min(self.tokens, most)
        if not self.ragged:
            return [tokens] * batch
        low, high = max(tokens // 4, 1), min(2 * tokens, most)
        return [low + int((high - low) * ((i + 1) * _GOLDEN % 1)) for i in range(batch)]


class Problem:
    """A shape on the GPU. `calls` are those of one choice, a selection or a table each."""

    def __init__(self, caches: Caches, device_id: int, shape: Shape, tokens: int) -> None:
        torch = self._torch = caches.torch
        self.shape, self._device_id = shape, device_id
        self._sparse = shape.operation == SPARSE
        self._pages = caches.of(shape, shape.batch * tokens * (1 if self._sparse else 2))
        generator = torch.Generator("cuda").manual_seed(shape.batch * 131 + shape.h_q)
        rows = (shape.batch * shape.s_q,) if shape.varlen else (shape.batch, shape.s_q)
        q = torch.randn(*rows, shape.h_q, shape.d_qk, generator=generator, device="cuda")
        floats = {"bfloat16", "float16"}
        self._q = q.to(getattr(torch, shape.dtype)) if shape.dtype in floats else _codes(torch, q, shape.dtype)
        self._options: dict[str, Any] = {"kv_format": shape.kv_format}
        if shape.varlen:
            offsets = torch.arange(0, shape.batch + 1, device="cuda", dtype=torch.int32) * shape.s_q
            self._options |= {"cu_seqlens_q": offsets, "max_seqlen_q": shape.s_q}
        if not self._sparse:
            self._options |= {"window": shape.window, "causal": shape.s_q > 1}
        self._results: dict[str, Any] = {}  # of the first call: all write there
        self._turns = [self._drawn(generator) for _ in range(self._count(tokens))]

    def _count(self, tokens: int) -> int:
        shape = self.shape
        reads = shape.s_q * (shape.capacity + shape.extra_topk) if self._sparse else tokens
        row = int(self._pages[0, 0].numel() * self._pages.element_size())
        return max(2, min(_MOST_TURNS, -(-_APART_BYTES // max(reads * shape.batch * row, 1))))

    def _drawn(self, generator: Any) -> tuple[Any, ...]:
        """A block table, or indices of both selections."""
        torch, shape = self._torch, self.shape
        blocks, page = self._pages.shape[:2]
        if not self._sparse:
            columns = -(-shape.capacity // page)
            count = shape.batch * columns
            if count <= blocks:
                order = torch.randperm(blocks, generator=generator, device="cuda")[:count]
            else:
                order = torch.randint(blocks, (count,), generator=generator, device="cuda")
            return (order.int().view(shape.batch, columns),)
        rows = (shape.batch * shape.s_q,) if shape.varlen else (shape.batch, shape.s_q)
        counts = [shape.capacity, *[shape.extra_topk] * (shape.extra_topk > 0)]
        return tuple(
            torch.randint(blocks * page, (*rows, count), generator=generator, device="cuda", dtype=torch.int32)
            for count in counts
        )

    def calls(self, entry: _tuning.Entry | None, lengths: Lengths) -> tuple[Calls, str]:
        """With the choice of an entry, or None: by rule; and the kernel that runs."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "candidate"
            if entry is not None:
                _tuning.save(path, self._device_id, [entry])
            _tuning.load_tuning(None if entry is None else path)
        made = self._sparse_calls(lengths) if self._sparse else self._dense_calls(lengths)
        made[0]()
        return made, flashmla.last_kernel()

    def _dense_calls(self, lengths: Lengths) -> list[Callable[[], object]]:
        torch, q, pages = self._torch, self._q, self._pages
        most = self.shape.capacity
        seqlens = torch.tensor(lengths.of(self.shape.batch, most), dtype=torch.int32, device="cuda")
        plan = flashmla.plan_decode(q, pages, self._turns[0][0], seqlens, **self._options)
        size = flashmla.dense_decode_workspace_size(q, pages, self._turns[0][0], seqlens, plan=plan, **self._options)
        scratch = torch.empty(size, dtype=torch.uint8, device="cuda")
        given = self._options | {"plan": plan, "workspace": scratch}
        if not self._results:
            out, lse = flashmla.dense_decode(q, pages, self._turns[0][0], seqlens, **given)
            self._results = {"out": out, "lse": lse}
        given |= self._results

        def call(table: Any) -> Callable[[], object]:
            return lambda: flashmla.dense_decode(q, pages, table, seqlens, **given)

        return [call(table) for (table,) in self._turns]

    def _sparse_calls(self, lengths: Lengths) -> list[Callable[[], object]]:
        torch, q, pages, shape = self._torch, self._q, self._pages, self.shape
        count = Lengths(shape.capacity, lengths.ragged).of(shape.batch, shape.capacity)
        topk = torch.tensor(count, dtype=torch.int32, device="cuda") if lengths.ragged else None
        shared = {name: value for name, value in self._options.items() if name != "kv_format"} | {"topk_length": topk}

        def selections(turn: tuple[Any, ...]) -> dict[str, Any]:
            return {"extra_indices": turn[1]} if len(turn) > 1 else {}

        first = self._turns[0]
        plan = flashmla.plan_sparse_decode(
            q, first[0], kv_format=cast("KvFormat", shape.kv_format), **shared, **selections(first)
        )
        extra = {"extra_kv_cache": pages} if len(first) > 1 else {}
        options = shared | extra | {"kv_format": shape.kv_format, "plan": plan}
        size = flashmla.sparse_decode_workspace_size(q, pages, first[0], **options, **selections(first))
        scratch = torch.empty(size, dtype=torch.uint8, device="cuda")
        given = options | {"workspace": scratch}
        if not self._results:
            out, lse = flashmla.sparse_decode(q, pages, first[0], **given, **selections(first))
            self._results = {"out": out, "lse": lse}
        given |= self._results

        def call(turn: tuple[Any, ...]) -> Callable[[], object]:
            return lambda: flashmla.sparse_decode(q, pages, turn[0], **given, **selections(turn))

        return [call(turn) for turn in self._turns]


def _codes(torch: Any, q: Any, dtype: str) -> Any:
    """q as codes of float8_e4m3fn, which callers may name as other bytes."""
    return q.to(torch.float8_e4m3fn).view(getattr(torch, dtype))
