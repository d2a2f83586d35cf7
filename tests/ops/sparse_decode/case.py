"""One call of sparse_decode as plain facts, drawn by strategies.py; the numbers follow from a seed (data.py)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from attention import QueryTokens
from buffers import ALIGNMENT, COMPACT, DTYPES, PAGES, Layout
from ops.append_kv import oracle as formats
from ops.dense_decode.oracle import D_V


@dataclass(frozen=True)
class Cache:
    """A cache and what is selected from it."""

    kv_format: str = "bf16"
    cache_dtype: str = "uint8"  # of a cache that is quantised
    columns: int = 576  # of a row in format "fp8"
    descale: float | None = None  # descale_k, with "fp8"
    num_blocks: int = 3
    page_size: int = 64
    topk: int = 5
    lengths: tuple[int, ...] | None = None  # topk_length; None: not given
    cache_layout: Layout = PAGES  # "bf16": of any kind
    indices_layout: Layout = COMPACT
    lengths_layout: Layout = COMPACT

    @property
    def format(self) -> formats.Format | None:
        return formats.format_of(self.kv_format, self.columns, self.descale)

    @property
    def slots(self) -> int:
        return self.num_blocks * self.page_size

    def attended(self, request: int) -> int:
        """How many indices of a request's query tokens count."""
        return self.topk if self.lengths is None else min(max(self.lengths[request], 0), self.topk)

    def but(self, **changes) -> Cache:
        return replace(self, **changes)


@dataclass(frozen=True)
class SparseLayouts:
    """A layout for each tensor that is of no cache."""

    q: Layout = COMPACT
    q_rope: Layout = COMPACT
    out: Layout = COMPACT
    lse: Layout = COMPACT
    cu_seqlens_q: Layout = COMPACT
    attn_sink: Layout = COMPACT
    scratch: Layout = COMPACT


@dataclass(frozen=True)
class SparseCase(QueryTokens):
    """A legal call of sparse_decode, small enough for the oracle."""

    main: Cache = field(default_factory=Cache)
    extra: Cache | None = None
    dtype: str = "bfloat16"  # of q
    d_qk: int = 576
    parted: bool = False  # the RoPE columns of q are a tensor of their own
    batch: int = 1
    s_q: int = 1
    h_q: int = 1
    index_dtype: str = "int32"
    outside: float = 0.1  # share of indices that select nothing
    repeated: float = 0.1  # share of indices that stand there before
    sink: str | None = None  # attn_sink, see attention.make_sink
    softmax_scale: float | None = None
    plan: str = "none"  # "none", "fresh" or "stale": made with other lengths
    num_splits: int = 0  # of the plan
    plan_format: str | None = None  # that the plan is told; None: that of the main cache
    given: tuple[str, ...] = ()  # of out, lse, workspace, plan_buffer: those the caller provides
    num_threads: int = 0
    route: str = "c"  # "c": the C ABI; else the package with this framework's tensors: "numpy", "torch", ...
    layouts: SparseLayouts = field(default_factory=SparseLayouts)
    seed: int = 0
    cu_seqlens_q: tuple[int, ...] | None = None  # variable-length queries; s_q is then max_seqlen_q
    total_q: int = 0  # query tokens in all, with cu_seqlens_q
    out_dtype: str | None = None  # None: dtype
    lse_base2: bool = False
    empty_lse_minus: bool = False
    batch_invariant: bool = False
    paired: bool = False  # on a GPU, codes for more than 64 heads: pairs of CTAs, however few query tokens there are

    @property
    def d_v(self) -> int:
        return D_V[self.d_qk]

    @property
    def planned_format(self) -> str:
        """What the plan is told of the main cache."""
        return self.plan_format or self.main.kv_format

    @property
    def caches(self) -> dict[str, Cache]:
        """By the prefix of their tensors' names."""
        return {"": self.main} | ({"extra_": self.extra} if self.extra else {})

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors that the call reads."""
        found = ["q", *["q_rope"] * self.parted]
        for prefix, cache in self.caches.items():
            found += [f"{prefix}kv_cache", f"{prefix}indices"]
            found += [f"{prefix}topk_length"] if cache.lengths is not None else []
            found += [f"{prefix}descale_k"] if cache.descale is not None else []
        found += ["attn_sink"] if self.sink is not None else []
        return (*found, *(["cu_seqlens_q"] if self.cu_seqlens_q is not None else []))

    @property
    def tokens(self) -> tuple[int, ...]:
        """Extents of the axes that count query tokens."""
        return (self.batch, self.s_q) if self.cu_seqlens_q is None else (self.total_q,)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every tensor that a call can have, given or not."""
        found = {
            **{name: (*self.tokens, self.h_q, width) for name, width in self.widths_of_q().items()},
            "out": (*self.tokens, self.h_q, self.d_v),
            "lse": (*self.tokens[:-1], self.h_q, self.tokens[-1]),
            "cu_seqlens_q": (self.batch + 1,),
            "attn_sink": (self.h_q,),
        }
        for prefix, cache in self.caches.items():
            row = cache.format.token_bytes if cache.format else self.d_qk
            found[f"{prefix}kv_cache"] = (cache.num_blocks, cache.page_size, 1, row)
            found[f"{prefix}indices"] = (*self.tokens, cache.topk)
            found[f"{prefix}topk_length"] = (self.batch,)
            found[f"{prefix}descale_k"] = (1,)
        return found

    def dtype_of(self, tensor: str) -> str:
        """The dtype of a tensor of the call."""
        if tensor.endswith("kv_cache"):
            cache = self.caches[tensor.removesuffix("kv_cache")]
            return cache.cache_dtype if cache.format else self.dtype
        if tensor.endswith("indices"):
            return self.index_dtype
        if tensor.endswith("descale_k"):
            return "float32"
        own = {
            "q": self.dtype,
            "q_rope": self.dtype,
            "out": self.out_dtype or self.dtype,
            "lse": "float32",
            "attn_sink": "float32",
        }
        return own.get(tensor, "int32")

    def layout_of(self, tensor: str) -> Layout:
        for prefix, cache in self.caches.items():
            own = {"kv_cache": cache.cache_layout, "indices": cache.indices_layout, "topk_length": cache.lengths_layout}
            own["descale_k"] = COMPACT
            if tensor.startswith(prefix) and tensor.removeprefix(prefix) in own:
                return own[tensor.removeprefix(prefix)]
        return getattr(self.layouts, tensor)

    def granule_of(self, tensor: str) -> int:
        """Elements in what the strides of a tensor are multiples of: 16 bytes for rows of latents and pages."""
        wide = tensor in {"q", "q_rope", "out"} or tensor.endswith("kv_cache")
        return ALIGNMENT // DTYPES[self.dtype_of(tensor)].itemsize if wide else 1

    def but(self, **changes) -> SparseCase:
        """The same case with some facts changed; those of the main cache may be named alone."""
        own = {name: value for name, value in changes.items() if name in Cache.__dataclass_fields__}
        if own:
            changes = {name: value for name, value in changes.items() if name not in own}
            changes["main"] = changes.get("main", self.main).but(**own)
        return replace(self, **changes)
