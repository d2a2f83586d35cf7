"""Calls of append_kv and quantize_kv as plain facts, their data, and what they must write."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

import c_abi
import flashmla
from buffers import ALIGNMENT, COMPACT, DTYPES, PAGES, Guarded, Layout
from ops.append_kv import oracle

ROPE_COLUMNS = 64


@dataclass(frozen=True)
class WriteCase:
    """A legal call of append_kv; without slots the facts are of quantize_kv too."""

    kv_format: str = "v32"
    dtype: str = "bfloat16"  # of latent
    cache_dtype: str = "uint8"  # of a cache that is quantised
    d_qk: int = 576  # "bf16", "fp8": columns of a row
    num_tokens: int = 5
    num_blocks: int = 3
    page_size: int = 4
    slot_dtype: str = "int64"
    slots: tuple[int, ...] | None = None  # None: drawn from the seed
    repeated: float = 0.2  # share of drawn slots that are another token's
    outside: float = 0.2  # share of drawn slots that are outside the cache
    split: bool = True  # latent and rope are two tensors
    unrounded: bool = False
    descale: float | None = None  # "fp8"
    num_threads: int = 0
    route: str = "c"
    latent_layout: Layout = COMPACT
    rope_layout: Layout = COMPACT
    slots_layout: Layout = COMPACT
    cache_layout: Layout = PAGES
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

    def but(self, **changes) -> WriteCase:
        return replace(self, **changes)


def make_columns(case: WriteCase) -> np.ndarray:
    """Rows of all kinds of tiles: of any magnitude, all zero, with the largest at the limit of a scale, on ties of
    codes, with NaN, with infinities, and with all of them at once.
    """
    rng = np.random.default_rng(case.seed)
    rows = rng.standard_normal((case.num_tokens, case.columns), np.float32)
    step = min(case.format.tile, 64) if case.format else 64
    largest = 15.0 if case.dtype == "float16" else 127.0
    with np.errstate(over="ignore"):
        for row in rows:
            for first in range(0, case.columns, step):
                tile, kind = row[first : first + step], rng.integers(12)
                if kind == 0:
                    tile[:] = rng.choice(np.array([0.0, -0.0], np.float32), len(tile))
                elif kind == 1:
                    tile *= np.float32(2.0) ** rng.integers(-149, largest)
                elif kind == 2:  # 448 and its neighbours, times a power of two
                    tile[:] = rng.uniform(-1, 1, len(tile)) * 448
                    tile[0] = rng.choice(np.array([448.0, 450.0, 446.0, 449.0, 447.9999], np.float32))
                    tile *= np.float32(2.0) ** rng.integers(-20, 7)
                elif kind == 3:  # multiples of half a code's step
                    tile[:] = rng.integers(-32, 33, len(tile)) * np.float32(2.0 ** rng.integers(-14, 4))
                elif kind == 4:
                    tile[rng.integers(len(tile))] = rng.choice(np.array([np.nan, np.inf, -np.inf], np.float32))
                elif kind == 5:
                    tile[:] = rng.choice(np.array([np.nan, np.inf, 1e-40, -3e38, 0.0], np.float32), len(tile))
        return rows.astype(DTYPES[case.dtype])


def make_slots(case: WriteCase) -> np.ndarray:
    """A slot for each token."""
    capacity = case.num_blocks * case.page_size
    if case.slots is not None:
        return np.array(case.slots, case.slot_dtype)
    rng = np.random.default_rng(case.seed + 1)
    slots = np.resize(rng.permutation(capacity), case.num_tokens).astype(np.int64)
    again = rng.random(case.num_tokens) < case.repeated
    slots[again] = rng.choice(slots, int(again.sum())) if len(slots) else []
    limits = np.iinfo(case.slot_dtype)
    outside = [-1, limits.min, limits.max, capacity, capacity + 1, -capacity]
    if case.slot_dtype == "int64":
        outside += [2**32, 2**32 + 1, -(2**32)]
    away = rng.random(case.num_tokens) < case.outside
    slots[away] = rng.choice(np.array(outside, np.int64), int(away.sum()))
    return slots.astype(case.slot_dtype)


def token_of(case: WriteCase, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of a row and of its scales."""
    if case.format is None:
        return row.view(np.uint8), np.zeros(0, np.uint8)
    given = row.view(np.uint16) if case.dtype == "bfloat16" else row.astype(np.float32)
    return oracle.token_bytes(case.format, given, unrounded=case.unrounded)


class Tokens:
    """The tensors of a case on a backend. The cache holds random bytes before."""

    def __init__(self, case: WriteCase, backend):
        self.case, self.backend = case, backend
        self.adapter = backend.adapter(case.route)
        self.columns, self.slots = make_columns(case), make_slots(case)
        border = case.columns - ROPE_COLUMNS if case.split else case.columns
        parts = {"latent": self.columns[:, :border], "rope": self.columns[:, border:]}
        self.inputs = {
            name: Guarded(self.adapter, part.shape, case.dtype, layout, self._granule(case.dtype), part)
            for (name, part), layout in zip(parts.items(), (case.latent_layout, case.rope_layout), strict=True)
            if part.shape[1]
        }
        if case.descale is not None:
            self.inputs["descale_k"] = Guarded(
                self.adapter, (1,), "float32", values=np.array([case.descale], np.float32)
            )
        dtype = case.cache_dtype if case.format else case.dtype
        size = int(np.prod(case.cache_shape)) * DTYPES[dtype].itemsize
        self.before = np.random.default_rng(case.seed + 2).integers(0, 256, size, np.uint8)
        self.before = self.before.view(DTYPES[dtype]).reshape(case.cache_shape)
        self.cache = Guarded(
            self.adapter, case.cache_shape, dtype, case.cache_layout, self._granule(dtype), self.before
        )

    @staticmethod
    def _granule(dtype: str) -> int:
        return ALIGNMENT // DTYPES[dtype].itemsize

    def place_slots(self) -> None:
        case = self.case
        self.inputs["slot_mapping"] = Guarded(
            self.adapter, self.slots.shape, case.slot_dtype, case.slots_layout, 1, self.slots
        )

    def c_call(self, operation: str, cache: str) -> c_abi.CCall:
        """A call of the C ABI; `cache`: its name there."""
        tensors = {
            name: c_abi.CTensor.of(guarded, self.backend.device, compact=False)
            for name, guarded in ({cache: self.cache} | self.inputs).items()
        }
        return c_abi.CCall(operation, tensors, fields(self.case))

    def check_written(self, slots: np.ndarray) -> None:
        """Each slot holds a token whole, one of those that name it, and nothing else was written."""
        case = self.case
        found = self.cache.values().view(np.uint8).reshape(case.num_blocks, case.page_size, -1)
        expected = self.before.view(np.uint8).reshape(found.shape).copy()
        for slot in np.unique(slots[(slots >= 0) & (slots < case.num_blocks * case.page_size)]):
            page, place = divmod(int(slot), case.page_size)
            candidates = []
            for token in np.flatnonzero(slots == slot)[::-1]:
                candidate = expected[page].copy()
                put(case, candidate, place, *token_of(case, self.columns[token]))
                candidates.append(candidate)
            # A page is compared as a whole at the end: here only which of the tokens it is.
            same = [np.array_equal(*(taken(case, one, place) for one in (found[page], other))) for other in candidates]
            expected[page] = candidates[same.index(True) if True in same else 0]
        wrong = np.argwhere(found != expected)
        assert not len(wrong), f"cache: {len(wrong)} bytes differ, first (page, row, byte) {wrong[0]}"
        self.cache.before = None  # its elements were compared; what lies between them is below
        self.check_only_elements_changed()
        for name, guarded in self.inputs.items():
            guarded.check_unchanged(name)

    def check_only_elements_changed(self) -> None:
        self.cache.check_only_elements_written("cache")


def put(case: WriteCase, page: np.ndarray, place: int, row: np.ndarray, scales: np.ndarray) -> None:
    if case.format:
        oracle.put(case.format, page, place, row, scales)
    else:
        page[place] = row


def taken(case: WriteCase, page: np.ndarray, place: int) -> np.ndarray:
    """The bytes of a token, found by where its bytes are put."""
    if case.format is None:
        return page[place]
    mask = np.zeros_like(page)
    row = case.format.quantized + 2 * (case.format.columns - case.format.quantized)
    oracle.put(case.format, mask, place, np.ones(row, np.uint8), np.ones(case.format.scale_bytes, np.uint8))
    return page[mask == 1]


def fields(case: WriteCase) -> dict[str, object]:
    """What a case says of a params struct, but for tensors."""
    return {
        "flags": c_abi.flags(unrounded_scales=case.unrounded),
        "kv_format": c_abi.constant(f"KV_{case.kv_format.upper()}"),
        "num_threads": case.num_threads,
    }


def check(case: WriteCase, backend) -> None:
    """Appends, and compares every byte of the cache with the oracle's."""
    tokens = Tokens(case, backend)
    tokens.place_slots()
    if case.route == "c":
        assert tokens.c_call("append_kv", "kv_cache").run() == 0, c_abi.last_error()
    else:
        inputs = {name: guarded.tensor for name, guarded in tokens.inputs.items()}
        returned = tokens.adapter.call(
            flashmla.append_kv,
            tokens.cache.tensor,
            inputs["latent"],
            inputs.get("rope"),
            inputs["slot_mapping"],
            kv_format=case.kv_format,
            unrounded_scales=case.unrounded,
            descale_k=inputs.get("descale_k"),
            num_threads=case.num_threads,
        )
        assert returned is tokens.cache.tensor
    tokens.check_written(tokens.slots)
