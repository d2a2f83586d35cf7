"""One call as plain facts, and its data: the facts are drawn (strategies.py), the numbers follow from a seed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from attention import QueryTokens, make_sink
from buffers import ALIGNMENT, COMPACT, DTYPES, Layout
from kv_pages import DEAD, put_rows, rows_of
from ops.append_kv import oracle as formats
from ops.dense_decode import oracle
from ops.dense_decode.oracle import Shard

D_QK = 576
ON_GPUS = (576, 512, 320, 288, 160)  # d_qk that kernels do
OF_WIDER = {288: 320}  # and of which do those that have no kernels of their own
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
INPUTS = ("q", "kv_cache", "block_table", "cache_seqlens")
# What a table holds where nothing may look: FlashMLA's own tests write 2147480000 there.
GARBAGE_PAGES = (2147480000, INT32_MIN, INT32_MAX, -1, 0, 1)


@dataclass(frozen=True)
class Layouts:
    """A layout for each tensor of a call."""

    q: Layout = COMPACT
    q_rope: Layout = COMPACT
    kv_cache: Layout = COMPACT
    block_table: Layout = COMPACT
    cache_seqlens: Layout = COMPACT
    out: Layout = COMPACT
    lse: Layout = COMPACT
    cu_seqlens_q: Layout = COMPACT
    global_seqlens: Layout = COMPACT
    attn_sink: Layout = COMPACT
    descale_q: Layout = COMPACT
    descale_k: Layout = COMPACT
    scratch: Layout = COMPACT  # workspace and plan buffer


@dataclass(frozen=True)
class Case(QueryTokens):
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
    d_qk: int = D_QK
    parted: bool = False  # the RoPE columns of q are a tensor of their own
    cu_seqlens_q: tuple[int, ...] | None = None  # variable-length queries; s_q is then max_seqlen_q
    total_q: int = 0  # query tokens in all, with cu_seqlens_q
    shard: Shard | None = None  # the cache is this part of a larger one
    global_seqlens: tuple[int, ...] = ()  # with a shard
    out_dtype: str | None = None  # None: dtype
    lse_base2: bool = False
    empty_lse_minus: bool = False
    batch_invariant: bool = False
    sink: str | None = None  # attn_sink, see attention.make_sink
    kv_format: str = "bf16"
    cache_dtype: str = "uint8"  # of a cache that is quantised
    q_dtype: str | None = None  # of codes, with "fp8"; None: q is in dtype
    descale_q: float | None = None  # with codes
    descale_k: float | None = None  # with "fp8"
    compute: str = "default"
    window: int = 0  # tokens that a query token attends at most; 0: any

    @property
    def format(self) -> formats.Format | None:
        return formats.format_of(self.kv_format, self.d_qk, self.descale_k)

    @property
    def batch(self) -> int:
        return len(self.lengths)

    @property
    def capacity(self) -> int:
        """Tokens that a row of the page table can name."""
        return self.max_blocks * self.page_size

    @property
    def d_v(self) -> int:
        return oracle.D_V[self.d_qk]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors that the call reads."""
        optional = {
            "q_rope": self.parted,
            "cu_seqlens_q": self.cu_seqlens_q is not None,
            "global_seqlens": self.shard is not None,
            "attn_sink": self.sink is not None,
            "descale_q": self.descale_q is not None,
            "descale_k": self.descale_k is not None,
        }
        return (*INPUTS, *(name for name, given in optional.items() if given))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every tensor that a call can have, given or not."""
        varlen = self.cu_seqlens_q is not None
        row = self.format.token_bytes if self.format else self.d_qk
        tokens = (self.total_q,) if varlen else (self.batch, self.s_q)
        return {
            **{name: (*tokens, self.h_q, width) for name, width in self.widths_of_q().items()},
            "kv_cache": (self.num_blocks, self.page_size, self.h_kv, row),
            "block_table": (self.batch, self.max_blocks),
            "cache_seqlens": (self.batch,),
            "out": (*tokens, self.h_q, self.d_v),
            "lse": (self.h_q, self.total_q) if varlen else (self.batch, self.h_q, self.s_q),
            "cu_seqlens_q": (self.batch + 1,),
            "global_seqlens": (self.batch,),
            "attn_sink": (self.h_q,),
            "descale_q": (1,),
            "descale_k": (1,),
        }

    def dtype_of(self, tensor: str) -> str:
        """The dtype of a tensor of the call."""
        if tensor == "out":
            return self.out_dtype or self.dtype
        if tensor == "kv_cache" and self.format:
            return self.cache_dtype
        if tensor in {"q", "q_rope"} and self.q_dtype:
            return self.q_dtype
        floats = {"lse", "attn_sink", "descale_q", "descale_k"}
        return self.dtype if tensor in {"q", "q_rope", "kv_cache"} else "float32" if tensor in floats else "int32"

    def granule_of(self, tensor: str) -> int:
        """Elements in what the strides of a tensor are multiples of: 16 bytes for rows of latents."""
        rows = {"q", "q_rope", "kv_cache", "out"}
        return ALIGNMENT // DTYPES[self.dtype_of(tensor)].itemsize if tensor in rows else 1

    def attended(self, i: int) -> int:
        """How many tokens of request i its last query token attends, which are its first ones."""
        rows = self.query_rows(i)
        length = min(max(self.lengths[i], 0), self.capacity)
        if rows.start == rows.stop or self.shard is None:
            return 0 if rows.start == rows.stop else length
        return int(np.sum(self.shard.global_tokens(length) < self.global_seqlens[i]))

    def first_attended(self, i: int) -> int:
        """The first token of request i that any of its query tokens attends, if one does."""
        rows = self.query_rows(i)
        masked = rows.stop - rows.start - 1 if self.causal else 0
        return max(0, self.attended(i) - masked - self.window) if self.window else 0

    def but(self, **changes) -> Case:
        """The same case with some facts changed."""
        return replace(self, **changes)


@dataclass
class Data:
    """The numbers of a case as compact NumPy arrays; q has all columns."""

    q: np.ndarray
    kv_cache: np.ndarray
    block_table: np.ndarray
    cache_seqlens: np.ndarray
    stale_seqlens: np.ndarray  # lengths that a stale plan was made with
    cu_seqlens_q: np.ndarray | None = None
    stale_cu_seqlens_q: np.ndarray | None = None
    global_seqlens: np.ndarray | None = None
    attn_sink: np.ndarray | None = None
    descale_q: np.ndarray | None = None
    descale_k: np.ndarray | None = None


def make_data(case: Case) -> Data:
    """N(0, 1) queries and latents; every slot that no request attends holds NaN or an infinity."""
    rng = np.random.default_rng(case.seed)
    dtype = DTYPES[case.dtype]
    shapes = case.shapes()
    q = rng.standard_normal((*shapes["q"][:-1], case.d_qk), np.float32)
    if case.q_dtype:
        scale = 1.0 if case.descale_q is None else case.descale_q
        q = formats.encoded(q, scale).astype(np.uint8).view(DTYPES[case.q_dtype])
    else:
        q = q.astype(dtype)
    table, live = _page_table(case, rng)
    dead = rng.choice([np.nan, np.nan, np.inf, -np.inf])
    kv_cache = _filled(case, live, dead, rng)
    lengths = np.array(case.lengths, np.int32)
    stale = rng.integers(-1, case.capacity + 2, case.batch, np.int32) if case.plan == "stale" else lengths
    data = Data(q, kv_cache, table, lengths, stale)
    if case.cu_seqlens_q is not None:
        data.cu_seqlens_q = data.stale_cu_seqlens_q = np.array(case.cu_seqlens_q, np.int32)
        if case.plan == "stale":
            data.stale_cu_seqlens_q = np.sort(rng.integers(-1, case.total_q + 2, case.batch + 1, np.int32))
        unowned = case.owners() == 0
        q[unowned] = dead if not case.q_dtype else np.uint8(DEAD).view(q.dtype)
    if case.shard is not None:
        data.global_seqlens = np.array(case.global_seqlens, np.int32)
    data.attn_sink = make_sink(case.sink, case.h_q, rng)
    for name in ("descale_q", "descale_k"):
        if getattr(case, name) is not None:
            setattr(data, name, np.array([getattr(case, name)], np.float32))
    return data


def _filled(case: Case, live: dict[int, np.ndarray], dead: float, rng: np.random.Generator) -> np.ndarray:
    """The cache with tokens in the live rows of its pages."""
    shape, dtype = case.shapes()["kv_cache"], DTYPES[case.dtype_of("kv_cache")]
    kv_cache = np.full(shape, DEAD, np.uint8).view(dtype) if case.format else np.full(shape, dead, dtype)
    for page, places in live.items():
        rows = np.flatnonzero(places)
        columns = rng.standard_normal((len(rows), case.h_kv, case.d_qk), np.float32)
        if case.format:
            slots = page * case.page_size + rows
            put_rows(case.format, kv_cache.view(np.uint8), slots, columns[:, 0], rng)
        else:
            kv_cache[page, rows] = columns
    return kv_cache


def keys_of(case: Case, data: Data) -> np.ndarray:
    """The cache as rows of columns, in float64."""
    return rows_of(case.format, data.kv_cache, exact=case.kv_format == "fp8")


def queries_of(case: Case, data: Data) -> np.ndarray:
    """q, in float64; NaN where a scale is not finite, since rows are NaN then, also those that attend zeros alone."""
    scale_q, scale_k = (1.0 if scale is None else float(scale[0]) for scale in (data.descale_q, data.descale_k))
    if not (np.isfinite(scale_q) and np.isfinite(scale_k)):
        return np.full(data.q.shape, np.nan)
    return formats.E4M3[data.q.view(np.uint8)] * scale_q if case.q_dtype else data.q.astype(np.float64)


def _page_table(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """A page table whose used entries name scattered pages, and the live rows of each page that is named."""
    table = rng.choice(np.array(GARBAGE_PAGES, np.int64), (case.batch, case.max_blocks)).astype(np.int32)
    attended = [case.attended(i) for i in range(case.batch)]
    used = [-(-count // case.page_size) for count in attended]
    # Requests share pages where the cache has fewer than they use, as they do with a common prefix.
    pages = rng.permutation(np.resize(rng.permutation(case.num_blocks), max(sum(used), case.num_blocks)))
    outside = (-1, case.num_blocks, case.num_blocks + 1, INT32_MIN, INT32_MAX, -7)
    live: dict[int, np.ndarray] = {}
    for i, count in enumerate(attended):
        first = case.first_attended(i)
        for j in range(first // case.page_size, used[i]):
            page, pages = int(pages[0]), pages[1:]
            if case.bad_pages and rng.random() < 0.3:
                table[i, j] = rng.choice(outside)
                continue
            table[i, j] = page
            places = np.arange(case.page_size) + j * case.page_size
            live[page] = live.get(page, False) | ((places >= first) & (places < count))
    return table, live


def gathered(case: Case, data: Data, requests: list[int], more_columns: int = 0) -> tuple[Case, Data]:
    """The call on these requests of another one, in this order; `more_columns`: of garbage in the page table."""
    lengths = tuple(min(max(case.lengths[i], 0), case.capacity) for i in requests)
    garbage = np.full((len(requests), more_columns), GARBAGE_PAGES[0], np.int32)
    changes: dict = {"lengths": lengths, "max_blocks": case.max_blocks + more_columns}
    moved = replace(
        data,
        q=data.q[requests] if case.cu_seqlens_q is None else data.q,
        block_table=np.concatenate([data.block_table[requests], garbage], 1),
        cache_seqlens=np.array(lengths, np.int32),
        stale_seqlens=data.stale_seqlens[requests],
    )
    if case.shard is not None:
        changes["global_seqlens"] = tuple(case.global_seqlens[i] for i in requests)
        moved.global_seqlens = data.global_seqlens[requests]
    if case.cu_seqlens_q is not None:
        rows = [case.query_rows(i) for i in requests]
        moved.q = np.concatenate([data.q[one] for one in rows])
        offsets = np.cumsum([0, *(one.stop - one.start for one in rows)], dtype=np.int32)
        moved.cu_seqlens_q = moved.stale_cu_seqlens_q = offsets
        changes |= {"cu_seqlens_q": tuple(map(int, offsets)), "total_q": len(moved.q)}
    return case.but(**changes), moved
