"""Calls of gather_kv and dequantize_kv as plain facts, their data, and what they must give."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

import c_abi
import flashmla
from buffers import ALIGNMENT, COMPACT, DTYPES, PAGES, Guarded, Layout
from ops.append_kv import oracle


@dataclass(frozen=True)
class ReadCase:
    """A legal call of gather_kv; without the requests the facts are of dequantize_kv too."""

    kv_format: str = "v32"
    dtype: str = "bfloat16"  # of out
    cache_dtype: str = "uint8"  # of a cache that is quantised
    d_qk: int = 576  # "bf16", "fp8": columns of a row
    descale: float | None = None  # "fp8"
    num_blocks: int = 3
    page_size: int = 4
    max_blocks: int = 3
    lengths: tuple[int, ...] = (5, 0, 9)  # rows of each request
    starts: tuple[int, ...] | None = None  # None: seq_starts is not given
    before: int = 0  # rows before those of the first request
    behind: int = 0  # rows behind those of the last one
    outside: float = 0.1  # share of page numbers that are outside the cache
    num_threads: int = 0
    route: str = "c"
    given: bool = True  # out is the caller's, as it always is by the C ABI
    cache_layout: Layout = PAGES
    out_layout: Layout = COMPACT
    table_layout: Layout = COMPACT
    seed: int = 0

    @property
    def format(self) -> oracle.Format | None:
        return oracle.format_of(self.kv_format, self.d_qk, self.descale)

    @property
    def columns(self) -> int:
        return self.format.columns if self.format else self.d_qk

    @property
    def cache_shape(self) -> tuple[int, ...]:
        return self.num_blocks, self.page_size, 1, self.format.token_bytes if self.format else self.d_qk

    @property
    def num_tokens(self) -> int:
        return self.before + sum(self.lengths) + self.behind

    def but(self, **changes) -> ReadCase:
        return replace(self, **changes)


def make_cache(case: ReadCase) -> np.ndarray:
    """Any bytes; of each second page scales are of a middling size."""
    rng = np.random.default_rng(case.seed)
    if case.format is None:
        bits = rng.integers(0, 256, (*case.cache_shape, DTYPES[case.dtype].itemsize), np.uint8)
        return bits.view(DTYPES[case.dtype])[..., 0]
    cache = rng.integers(0, 256, case.cache_shape, np.uint8)
    for page in cache[::2, :, 0]:
        for place in range(case.page_size):
            with np.errstate(over="ignore", invalid="ignore"):
                row = rng.standard_normal(case.columns).astype(np.float32) * np.float32(2.0) ** rng.integers(-9, 9)
            oracle.put(case.format, page, place, *oracle.token_bytes(case.format, row, unrounded=rng.random() < 0.5))
    return cache.view(DTYPES[case.cache_dtype])


def make_table(case: ReadCase) -> np.ndarray:
    rng = np.random.default_rng(case.seed + 1)
    table = rng.integers(0, case.num_blocks, (len(case.lengths), case.max_blocks)).astype(np.int32)
    away = rng.random(table.shape) < case.outside
    table[away] = rng.choice(np.array([-1, case.num_blocks, 2**31 - 1, -(2**31)], np.int32), int(away.sum()))
    return table


class Pages:
    """The tensors of a case on a backend."""

    def __init__(self, case: ReadCase, backend):
        self.case, self.backend = case, backend
        self.adapter = backend.adapter(case.route)
        self.cache_values = make_cache(case)
        dtype = case.cache_dtype if case.format else case.dtype
        granule = ALIGNMENT // DTYPES[dtype].itemsize
        self.inputs = {
            "kv_cache": Guarded(self.adapter, case.cache_shape, dtype, case.cache_layout, granule, self.cache_values)
        }
        if case.descale is not None:
            one = np.array([case.descale], np.float32)
            self.inputs["descale_k"] = Guarded(self.adapter, (1,), "float32", values=one)

    def place_requests(self) -> None:
        """The tensors of gather_kv."""
        case = self.case
        self.table = make_table(case)
        self.offsets = case.before + np.cumsum([0, *case.lengths]).astype(np.int32)
        numbers = {"block_table": self.table, "cu_seqlens": self.offsets}
        if case.starts is not None:
            numbers["seq_starts"] = np.array(case.starts, np.int32)
        for name, values in numbers.items():
            layout = case.table_layout if name == "block_table" else COMPACT
            self.inputs[name] = Guarded(self.adapter, values.shape, "int32", layout, 1, values)

    def output(self, num_tokens: int) -> Guarded:
        case = self.case
        granule = ALIGNMENT // DTYPES[case.dtype].itemsize
        return Guarded(self.adapter, (num_tokens, case.columns), case.dtype, case.out_layout, granule)

    def c_call(self, operation: str, out: Guarded) -> c_abi.CCall:
        tensors = {
            name: c_abi.CTensor.of(guarded, self.backend.device, compact=False)
            for name, guarded in (self.inputs | {"out": out}).items()
        }
        return c_abi.CCall(operation, tensors, fields(self.case))

    def token(self, block: int, place: int) -> np.ndarray:
        """A row as it must be read: of what is quantised in the dtype of out."""
        case = self.case
        if case.format is None:
            return self.cache_values[block, place, 0]
        columns, bits = oracle.get(case.format, self.cache_values[block].view(np.uint8), place)
        with np.errstate(over="ignore", invalid="ignore"):
            row = np.concatenate([columns.astype(np.float32), oracle.widened(bits)]).astype(DTYPES[case.dtype])
        if case.dtype == "bfloat16":
            row.view(np.uint16)[case.format.quantized :] = bits
        return row

    def row(self, request: int, position: int) -> np.ndarray:
        """A row of a request."""
        case = self.case
        token = position + (case.starts[request] if case.starts is not None else 0)
        entry, place = divmod(token, case.page_size)
        block = int(self.table[request, entry]) if 0 <= entry < case.max_blocks else -1
        if not 0 <= block < case.num_blocks:
            return np.zeros(case.columns, DTYPES[case.dtype])
        return self.token(block, place)

    def check_rows(self, found: np.ndarray, first: int, rows: list[np.ndarray]) -> None:
        """Bit by bit; of what is computed NaN is NaN."""
        case = self.case
        computed = np.zeros(case.columns, bool)
        if case.format:
            computed[: case.format.quantized] = True
            computed |= case.dtype != "bfloat16"
        for at, wanted in enumerate(rows, first):
            bits, wanted_bits = (row.view(BITS[case.dtype]) for row in (found[at], wanted))
            nans = np.isnan(wanted.astype(np.float32)) & np.isnan(found[at].astype(np.float32))
            right = (bits == wanted_bits) | (computed & nans)
            assert right.all(), f"out: row {at} differs, first in column {int(np.argmin(right))}"

    def check_inputs_unchanged(self) -> None:
        for name, guarded in self.inputs.items():
            guarded.check_unchanged(name)


BITS = {"bfloat16": np.uint16, "float16": np.uint16, "float32": np.uint32}


def fields(case: ReadCase) -> dict[str, object]:
    """What a case says of a params struct, but for tensors."""
    return {"kv_format": c_abi.constant(f"KV_{case.kv_format.upper()}"), "num_threads": case.num_threads}


def check(case: ReadCase, backend) -> None:
    """Gathers, and compares every row with the oracle's; those of no request are not written."""
    pages = Pages(case, backend)
    pages.place_requests()
    out = pages.output(case.num_tokens)
    if case.route == "c":
        assert pages.c_call("gather_kv", out).run() == 0, c_abi.last_error()
    else:
        inputs = {name: guarded.tensor for name, guarded in pages.inputs.items()}
        options = {"out": out.tensor} if case.given else {"out_dtype": case.dtype if case.format else None}
        made = pages.adapter.call(
            flashmla.gather_kv,
            *(inputs[name] for name in ("kv_cache", "block_table", "cu_seqlens")),
            None if case.given else case.num_tokens,
            seq_starts=inputs.get("seq_starts"),
            descale_k=inputs.get("descale_k"),
            kv_format=case.kv_format,
            num_threads=case.num_threads,
            **options,
        )
        assert not case.given or made is out.tensor
    given = case.given or case.route == "c"
    found = out.values() if given else pages.adapter.to_numpy(made)
    rows = [pages.row(i, position) for i, length in enumerate(case.lengths) for position in range(length)]
    pages.check_rows(found, case.before, rows)
    if given:
        out.check_only_elements_written("out")
        idle = np.concatenate([found[: case.before], found[case.before + len(rows) :]])
        assert (idle.view(np.uint8) == 0xFF).all(), "out: rows of no request were written"
    pages.check_inputs_unchanged()
