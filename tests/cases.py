"""One call as plain facts, and its data: the facts are drawn (strategies.py), the numbers follow from a seed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from buffers import ALIGNMENT, COMPACT, DTYPES, Layout

D_QK, D_V = 576, 512
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
# What a table holds where nothing may look: FlashMLA's own tests write 2147480000 there.
GARBAGE_PAGES = (2147480000, INT32_MIN, INT32_MAX, -1, 0, 1)


@dataclass(frozen=True)
class Layouts:
    """A layout for each tensor of a call."""

    q: Layout = COMPACT
    kv_cache: Layout = COMPACT
    block_table: Layout = COMPACT
    cache_seqlens: Layout = COMPACT
    out: Layout = COMPACT
    lse: Layout = COMPACT
    scratch: Layout = COMPACT  # workspace and plan buffer


@dataclass(frozen=True)
class Case:
    """A legal call of dense_decode, small enough for the oracle."""

    dtype: str = "bfloat16"
    s_q: int = 1
    h_q: int = 1
    h_kv: int = 1
    page_size: int = 64
    num_blocks: int = 1
    max_blocks: int = 1
    lengths: tuple[int, ...] = (1,)
    causal: bool = False
    softmax_scale: float | None = None
    bad_pages: bool = False  # some page numbers within the length are outside the cache
    plan: str = "none"  # "none", "fresh" or "stale": made with other lengths
    num_splits: int = 0  # of the plan
    given: tuple[str, ...] = ()  # of out, lse, workspace, plan_buffer: those the caller provides
    num_threads: int = 0
    route: str = "c"  # "c": the C ABI; else the package with this framework's tensors: "numpy", "torch", ...
    layouts: Layouts = field(default_factory=Layouts)
    seed: int = 0

    @property
    def batch(self) -> int:
        return len(self.lengths)

    @property
    def capacity(self) -> int:
        """Tokens that a row of the page table can name."""
        return self.max_blocks * self.page_size

    @property
    def granule(self) -> int:
        """Elements in 16 bytes, which strides of q, kv_cache and out are multiples of."""
        return ALIGNMENT // DTYPES[self.dtype].itemsize

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            "q": (self.batch, self.s_q, self.h_q, D_QK),
            "kv_cache": (self.num_blocks, self.page_size, self.h_kv, D_QK),
            "block_table": (self.batch, self.max_blocks),
            "cache_seqlens": (self.batch,),
            "out": (self.batch, self.s_q, self.h_q, D_V),
            "lse": (self.batch, self.h_q, self.s_q),
        }

    def but(self, **changes) -> Case:
        """The same case with some facts changed."""
        return replace(self, **changes)


@dataclass
class Data:
    """The numbers of a case as compact NumPy arrays."""

    q: np.ndarray
    kv_cache: np.ndarray
    block_table: np.ndarray
    cache_seqlens: np.ndarray
    stale_seqlens: np.ndarray  # lengths that a stale plan was made with


def make_data(case: Case) -> Data:
    """N(0, 1) queries and latents; every slot that no request attends holds NaN or an infinity."""
    rng = np.random.default_rng(case.seed)
    dtype = DTYPES[case.dtype]
    shapes = case.shapes()
    q = rng.standard_normal(shapes["q"], np.float32).astype(dtype)
    table, live = _page_table(case, rng)
    dead = rng.choice([np.nan, np.nan, np.inf, -np.inf])
    kv_cache = np.full(shapes["kv_cache"], dead, dtype)
    for page, rows in live.items():
        kv_cache[page, :rows] = rng.standard_normal((rows, case.h_kv, D_QK), np.float32)
    lengths = np.array(case.lengths, np.int32)
    stale = rng.integers(-1, case.capacity + 2, case.batch, np.int32) if case.plan == "stale" else lengths
    return Data(q, kv_cache, table, lengths, stale)


def _page_table(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, dict[int, int]]:
    """A page table whose used entries name scattered pages, and the live rows of each page that is named."""
    table = rng.choice(np.array(GARBAGE_PAGES, np.int64), (case.batch, case.max_blocks)).astype(np.int32)
    clamped = [min(max(length, 0), case.capacity) for length in case.lengths]
    used = [-(-length // case.page_size) for length in clamped]
    # Requests share pages where the cache has fewer than they use, as they do with a common prefix.
    pages = rng.permutation(np.resize(rng.permutation(case.num_blocks), max(sum(used), case.num_blocks)))
    outside = (-1, case.num_blocks, case.num_blocks + 1, INT32_MIN, INT32_MAX, -7)
    live: dict[int, int] = {}
    for i, length in enumerate(clamped):
        for j in range(used[i]):
            page, pages = int(pages[0]), pages[1:]
            if case.bad_pages and rng.random() < 0.3:
                table[i, j] = rng.choice(outside)
                continue
            table[i, j] = page
            live[page] = max(live.get(page, 0), min(case.page_size, length - j * case.page_size))
    return table, live
