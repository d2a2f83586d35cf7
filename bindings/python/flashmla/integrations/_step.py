"""`PagedStep`: what all layers of one step of a model share."""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import accumulate, chain, repeat
from typing import Any, TypeVar

import torch

import flashmla
from flashmla._formats import KvFormat
from flashmla._words import a
from flashmla.errors import invalid

T = TypeVar("T")


def _check_table(block_table: Any) -> None:
    if not isinstance(block_table, torch.Tensor):
        raise TypeError(f"block_table is {a(block_table)}; a torch.Tensor is needed")


def _whole(lengths: Sequence[int], name: str) -> list[int]:
    try:
        return [*map(operator.index, lengths)]
    except TypeError as error:
        raise TypeError(f"{name} must be a sequence of integers: {error}") from None


@dataclass(frozen=True)
class Chunk:
    """A sequence that begins in a step, whose keys are projected up."""

    sequence: int
    first: int  # of its tokens, among those of the step
    length: int
    rows: torch.Tensor  # (2,) int32: 0 and length, for `gather_kv`


@dataclass(frozen=True)
class Split:
    """Which tokens of a step go which way."""

    chunks: tuple[Chunk, ...]  # projected up, one by one
    tokens: torch.Tensor | None  # absorbed, in one call: their numbers; None: all
    cu_seqlens_q: torch.Tensor  # theirs: sequences that are chunks have none
    max_seqlen_q: int


@dataclass(frozen=True, eq=False)
class PagedStep:
    """One step of a model: the caches of its layers, where its tokens are written, and what they attend.

    The tokens of a step lie behind one another, sequence by sequence: a prompt, a piece of one, drafts, or one token.

    kv_caches      of each attention layer (num_blocks, page_size, 1, row), as `append_kv` takes it, in a list, or in
                   one tensor with the layers' axis in front
    block_table    (batch, max_blocks) int32
    cache_seqlens  (batch,) int32: tokens of each sequence, with those of this step
    slot_mapping   (total_q,) int64: where the step's tokens are written; -1: nowhere
    position_ids   (total_q,) int64: their positions in their sequences
    cu_seqlens_q   (batch + 1,) int32: sequence i has the tokens from cu_seqlens_q[i] up to cu_seqlens_q[i + 1]
    max_seqlen_q   most tokens of a sequence
    query_lens, seq_lens
                   the numbers of cu_seqlens_q and cache_seqlens on the host; None: not known there, as where a step is
                   captured in a graph, and all tokens go the absorbed way
    kv_format      of kv_caches
    up_project_from
                   a sequence that begins in this step with so many tokens attends keys that are projected up; None:
                   where that takes fewer operations (`KvUpProjection.pays_from`)

    Raises InvalidArgumentError for kv_caches that are not one of each layer.

    >>> kv_caches = [torch.zeros(8, 64, 1, 576) for layer in range(2)]
    >>> block_table = torch.tensor([[5, 2], [1, 0]], dtype=torch.int32)
    >>> step = PagedStep.of_lengths(kv_caches, block_table, context_lens=[100, 0], query_lens=[1, 40])
    >>> step.slot_mapping[:2].tolist(), step.cache_seqlens.tolist()
    ([164, 64], [101, 40])
    """

    kv_caches: Sequence[Any]
    block_table: torch.Tensor
    cache_seqlens: torch.Tensor
    slot_mapping: torch.Tensor
    position_ids: torch.Tensor
    cu_seqlens_q: torch.Tensor
    max_seqlen_q: int
    query_lens: tuple[int, ...] | None = None
    seq_lens: tuple[int, ...] | None = None
    kv_format: KvFormat = "bf16"
    up_project_from: int | None = None
    _shared: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        _page_size(self.kv_caches)

    @classmethod
    def of_lengths(
        cls,
        kv_caches: Sequence[Any],
        block_table: torch.Tensor,
        context_lens: Sequence[int],
        query_lens: Sequence[int],
        *,
        slot_mapping: torch.Tensor | None = None,
        rows: Sequence[int] | None = None,
        **options: Any,
    ) -> PagedStep:
        """A step of sequences that have `context_lens` tokens in the caches and get `query_lens` more.

        block_table is on the device of the caches; slots follow from it unless they are given. `rows` are those of the
        sequences in it; None: one after the other.

        Raises InvalidArgumentError for lengths that are below 0, beyond what a row of block_table has room for, or not
        as many as the rows, and for kv_caches that are not one of each layer; TypeError for what is no tensor, and
        no integers.
        """
        _check_table(block_table)
        context_lens, query_lens = _whole(context_lens, "context_lens"), _whole(query_lens, "query_lens")
        number = block_table.shape[0] if rows is None else len(rows)
        if not len(context_lens) == len(query_lens) == number:
            raise invalid(
                "FLASHMLA_ERROR_SHAPE",
                f"context_lens has {len(context_lens)} lengths, query_lens {len(query_lens)}, and there are {number} "
                "rows of block_table; they must be one number",
            )
        seq_lens = tuple(context + new for context, new in zip(context_lens, query_lens, strict=True))
        page_size = _page_size(kv_caches)
        room = block_table.shape[1] * page_size
        if min((*context_lens, *query_lens), default=0) < 0 or max(seq_lens, default=0) > room:
            raise _unfit_length(context_lens, query_lens, room)
        firsts = (0, *accumulate(query_lens))
        positions = [*chain.from_iterable(map(range, context_lens, seq_lens))]
        sequences = [] if slot_mapping is not None else chain.from_iterable(map(repeat, range(number), query_lens))
        position_ids, lengths, offsets, of_tokens, of_table = _uploaded(
            [positions, seq_lens, firsts, [*sequences], rows or []], block_table.device
        )
        if rows is not None:
            block_table = block_table[of_table]
        if slot_mapping is None:
            pages = block_table[of_tokens, position_ids // page_size].long()
            slot_mapping = pages * page_size + position_ids % page_size
        return cls(
            kv_caches,
            block_table,
            lengths.int(),
            slot_mapping,
            position_ids,
            offsets.int(),
            max(query_lens, default=0),
            query_lens=tuple(query_lens),
            seq_lens=seq_lens,
            **options,
        )

    @classmethod
    def of_cache(
        cls, cache: flashmla.PagedKVCache, seqs: Sequence[int], counts: Sequence[int] | None = None, **options: Any
    ) -> PagedStep:
        """A step of sequences of a `PagedKVCache`, to which it appends counts[i] tokens each, or one.

        Raises what `PagedKVCache.append` does: PoolFullError where there is no room, and then nothing has changed.

        >>> cache = flashmla.PagedKVCache([torch.zeros(8, 64, 1, 576)], max_seqs=2, max_seq_len=128)
        >>> sequence, _ = cache.allocate()
        >>> PagedStep.of_cache(cache, [sequence], [3]).position_ids
        tensor([0, 1, 2])
        """
        seqs = [*seqs]
        counts = [1] * len(seqs) if counts is None else [*counts]
        # a subclass may have fields of its own
        if unknown := sorted(set(options) - {"slot_mapping", "rows", *(each.name for each in fields(cls))}):
            raise TypeError(f"of_cache has no option {unknown[0]!r}")
        _check_table(cache.block_table)
        total = cache.append(seqs, counts)
        rows, lengths = cache.rows_and_lengths(seqs)
        contexts = [length - count for length, count in zip(lengths, counts, strict=True)]
        options = {"slot_mapping": cache.slot_mapping[:total], "rows": rows, "kv_format": cache.kv_format, **options}
        return cls.of_lengths(cache.kv_cache, cache.block_table, contexts, counts, **options)

    @cached_property
    def last_tokens(self) -> torch.Tensor:
        """The number of each sequence's last token in this step, (batch,) int64; where one has none, any number."""
        return self.cu_seqlens_q[1:].long() - 1

    def cache_of(self, layer: int) -> Any:
        """The cache of a layer. Raises InvalidArgumentError where there is none."""
        if 0 <= layer < len(self.kv_caches):
            return self.kv_caches[layer]
        raise invalid("FLASHMLA_ERROR_SHAPE", f"layer is {layer}; kv_caches has {len(self.kv_caches)} of them")

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """What the first layer makes for all."""
        if key not in self._shared:
            self._shared[key] = make()
        made: T = self._shared[key]
        return made

    def split(self, up_project_from: int) -> Split:
        """Sequences that begin in this step with at least `up_project_from` tokens on one side, the tokens of others on
        the other. What the step itself names comes first.
        """
        least = up_project_from if self.up_project_from is None else self.up_project_from
        return self.shared(least, lambda: self._split(least))

    def _split(self, least: int) -> Split:
        if self.query_lens is None or self.seq_lens is None or self.max_seqlen_q < least:
            return Split((), None, self.cu_seqlens_q, self.max_seqlen_q)
        device = self.block_table.device
        chunks: list[Chunk] = []
        absorbed: list[int] = []
        tokens: list[int] = []
        first = 0
        for sequence, (query_len, seq_len) in enumerate(zip(self.query_lens, self.seq_lens, strict=True)):
            if query_len >= least and query_len == seq_len:
                rows = torch.tensor([0, seq_len], dtype=torch.int32, device=device)
                chunks.append(Chunk(sequence, first, seq_len, rows))
                absorbed.append(0)
            else:
                tokens.extend(range(first, first + query_len))
                absorbed.append(query_len)
            first += query_len
        if not chunks:
            return Split((), None, self.cu_seqlens_q, self.max_seqlen_q)
        offsets = torch.tensor([0, *accumulate(absorbed)], dtype=torch.int32, device=device)
        return Split(tuple(chunks), torch.tensor(tokens, dtype=torch.int64, device=device), offsets, max(absorbed))

    def decode(
        self, q: torch.Tensor, split: Split, layer: int, softmax_scale: float, q_rope: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attention of q (tokens of `split`, h_q, d_qk) over the cache of a layer: (tokens, h_q, d_v). With q_rope, its
        RoPE columns, q is (tokens, h_q, d_v).

        Layers share the plan, which the first of them makes.
        """
        options: dict[str, Any] = {"causal": True, "kv_format": self.kv_format}
        batch, longest = self.block_table.shape[0], split.max_seqlen_q
        uniform = q.shape[0] == batch * longest
        if uniform:
            q = q.view(batch, longest, *q.shape[1:])
            q_rope = None if q_rope is None else q_rope.view(batch, longest, *q_rope.shape[1:])
        else:
            options |= {"cu_seqlens_q": split.cu_seqlens_q, "max_seqlen_q": longest}
        options["q_rope"] = q_rope
        call = q, self.cache_of(layer), self.block_table, self.cache_seqlens
        plan = self.shared((q.shape, q.dtype, q_rope is None), lambda: flashmla.plan_decode(*call, **options))
        out: torch.Tensor = flashmla.dense_decode(
            *call, softmax_scale=softmax_scale, plan=plan, return_lse=False, **options
        )
        return out.flatten(0, 1) if uniform else out


def _page_size(kv_caches: Any) -> int:
    """Of caches that are one of each layer."""
    needed = "a list of caches (num_blocks, page_size, 1, row), one of each layer, or a tensor with the layers in front"
    if not hasattr(kv_caches, "__getitem__") or not hasattr(kv_caches, "__len__"):
        raise TypeError(f"kv_caches is {a(kv_caches)}: a list of caches, one of each layer, is needed")
    if not len(kv_caches):
        raise invalid("FLASHMLA_ERROR_SHAPE", f"kv_caches is empty; it must be {needed}")
    shape = kv_caches[0].shape
    if len(shape) != 4:
        raise invalid("FLASHMLA_ERROR_SHAPE", f"kv_caches[0] has {len(shape)} axes; kv_caches must be {needed}")
    page_size: int = shape[1]
    return page_size


def _unfit_length(context_lens: Sequence[int], query_lens: Sequence[int], room: int) -> Exception:
    """The error of the first one; on a GPU a position beyond the table would end the context."""
    for number, (context, new) in enumerate(zip(context_lens, query_lens, strict=True)):
        for name, length in ("context_lens", context), ("query_lens", new):
            if length < 0:
                return invalid("FLASHMLA_ERROR_VALUE", f"{name}[{number}] is {length}; it must be >= 0")
        if context + new > room:
            break
    return invalid(
        "FLASHMLA_ERROR_VALUE",
        f"context_lens[{number}] is {context}, query_lens[{number}] {new}; a row of block_table has room for {room} "
        "tokens",
    )


def _uploaded(numbers: Sequence[Sequence[int]], device: torch.device) -> list[torch.Tensor]:
    """Lists of integers as tensors (int64) on a device, in one copy, for which nobody waits."""
    host = torch.tensor([*chain.from_iterable(numbers)], dtype=torch.int64, pin_memory=device.type == "cuda")
    ends = [*accumulate(map(len, numbers))]
    return list(host.to(device, non_blocking=True).tensor_split(ends[:-1]))
