"""What tests of relations between calls share."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

import compare
from attention import Result, same_bits
from buffers import COMPACT, DTYPES
from ops.dense_decode import calls, oracle
from ops.dense_decode.case import INT32_MAX, INT32_MIN, Case, Data, gathered, make_data

# Two requests of several pages, more query rows than one tile holds, two KV heads.
STEP = Case(s_q=2, h_q=48, h_kv=2, num_blocks=12, max_blocks=6, lengths=(300, 71), causal=True, given=("lse",), seed=7)
# Long, short and empty requests; more query rows than a tile holds; two KV heads.
INVARIANT = Case(
    s_q=2,
    h_q=48,
    h_kv=2,
    num_blocks=60,
    max_blocks=40,
    lengths=(2500, 71, 0, 640, 2560),
    causal=True,
    given=("lse",),
    seed=3,
    batch_invariant=True,
)
# One request in one chunk of 16 query tokens, whose tokens end within a piece of the second node; with all digits.
CHUNK = Case(
    s_q=16,
    h_q=16,
    num_blocks=90,
    max_blocks=90,
    lengths=(64 * 86 + 5,),
    causal=True,
    given=("lse",),
    seed=11,
    out_dtype="float32",
    batch_invariant=True,
)
# Requests of 3, 0, 1 and 2 query tokens; one token before them and one behind belong to none.
MIXED = STEP.but(
    s_q=3, lengths=(300, 71, 0, 129), cu_seqlens_q=(1, 4, 4, 5, 7), total_q=8, num_blocks=14, given=("out", "lse")
)
# Tiles of very different lengths, each in several pieces, with work for several threads: the first tiles are for one
# thread each, the last one is for several.
UNEVEN = Case(
    h_q=128,
    num_blocks=80,
    max_blocks=40,
    lengths=(300, 71, 0, 640, 1100, 2500),
    given=("lse",),
    seed=13,
    plan="fresh",
    num_splits=3,
)
# Parts of so little that the first one of a tile is empty, whose rows a sink scales.
EMPTY_PARTS = Case(
    h_q=128,
    num_blocks=40,
    max_blocks=23,
    lengths=(320, 64, 64, 64, 64),
    given=("lse",),
    seed=3,
    sink="some",
    out_dtype="float32",
)
ACROSS_THREADS = {
    "uneven": UNEVEN,
    "uneven-sink-float32": UNEVEN.but(sink="some", out_dtype="float32"),
    "aligned": UNEVEN.but(num_splits=0, lengths=(1024,) * 6, num_blocks=100),
    "empty-parts": EMPTY_PARTS,
}
# A window of few of its tokens.
LONG = Case(
    s_q=3, h_q=16, page_size=16, num_blocks=600, max_blocks=300, lengths=(4700, 0, 70), causal=True, given=("lse",),
    window=100,
)  # fmt: skip
# One request of a million tokens, in one piece, that reads 64 pages again and again.
MILLION = Case(
    dtype="float32",
    h_q=16,
    num_blocks=64,
    max_blocks=1 << 14,
    lengths=(1 << 20,),
    given=("lse",),
    plan="fresh",
    num_splits=1,
    seed=5,
)
# Few tokens, read very often: the rounding errors of their sums have one sign.
FEW_TOKENS = MILLION.but(page_size=1, num_blocks=2, max_blocks=24_000, lengths=(24_000,))


def close(case: Case, first: calls.Result, second: calls.Result) -> None:
    """Two results of one problem, each within the tolerance of the truth."""
    bound = calls.bound_of(case).widened(2)
    natural = np.log(2) if case.lse_base2 else 1.0
    compare.check_lse(natural * first.lse.astype(np.float64), natural * second.lse.astype(np.float64), bound)
    compare.check_out(first.out.astype(np.float64), second.out.astype(np.float64), bound)


def check_alone(case: Case, backend) -> calls.Result:
    """The result, in which every request must have the bits of a call on that request alone."""
    numbers = make_data(case)
    together = calls.run(case, backend, numbers)
    for i in range(case.batch):
        alone, lone_numbers = gathered(case, numbers, [i])
        same_bits(together.request(case, i), calls.run(alone, backend, lone_numbers).request(alone, 0))
    return together


class Chunk(NamedTuple):
    """Query tokens of a request of another call, `end` excluded."""

    request: int
    begin: int
    end: int


def chunked(case: Case, data: Data, chunks: list[Chunk], *, varlen: bool, drafts: int = 0) -> tuple[Case, Data]:
    """The call on these chunks, each a request of its own whose cache ends with it, and so many tokens more that stand
    for anything. Without `varlen` all must be of one size.
    """
    picked, moved = gathered(case, data, [chunk.request for chunk in chunks], 5)
    draw = np.random.default_rng(len(chunks))
    queries, before_end = [], []
    for request, begin, end in chunks:
        own = (data.q if case.cu_seqlens_q is not None else data.q[request])[case.query_rows(request)]
        more = draw.standard_normal((drafts, *own.shape[1:]), np.float32).astype(own.dtype)
        queries.append(np.concatenate([own[begin:end], more]))
        # With a causal mask a token attends fewer of the cache's than those that come after it.
        before_end.append(len(own) - end - drafts if case.causal else 0)
    sizes = [len(one) for one in queries]
    changes: dict = {"s_q": max(sizes), "cu_seqlens_q": None, "total_q": 0}
    given = picked.lengths if case.shard is None else picked.global_seqlens
    lengths = np.clip(np.array(given, np.int64) - before_end, INT32_MIN, INT32_MAX).astype(np.int32)
    if case.shard is None:
        moved.cache_seqlens = moved.stale_seqlens = lengths
        changes["lengths"] = tuple(map(int, lengths))
    else:
        moved.global_seqlens = lengths
        changes["global_seqlens"] = tuple(map(int, lengths))
    if varlen:
        offsets = np.cumsum([0, *sizes], dtype=np.int32)
        moved = replace(moved, q=np.concatenate(queries), cu_seqlens_q=offsets, stale_cu_seqlens_q=offsets)
        changes |= {"cu_seqlens_q": tuple(map(int, offsets)), "total_q": len(moved.q)}
    else:
        moved = replace(moved, q=np.stack(queries), cu_seqlens_q=None, stale_cu_seqlens_q=None)
    layouts = case.layouts
    if varlen != (case.cu_seqlens_q is not None):  # q, out and lse have another rank
        layouts = replace(layouts, q=COMPACT, q_rope=COMPACT, out=COMPACT, lse=COMPACT)
    return picked.but(**changes, layouts=layouts), moved


def tokens_of(case: Case, result: Result, chunk: Chunk) -> Result:
    """The part of a chunk in the result of a call."""
    request = result.request(case, chunk.request)
    rows = slice(chunk.begin, chunk.end)
    return Result(request.out[rows], None if request.lse is None else request.lse[:, rows])


def check_chunks(
    case: Case, backend, data: Data, wanted: Result, chunks: list[Chunk], *, varlen: bool, drafts: int = 0
) -> None:
    """A call on chunks gives every query token the bits that it has in another call."""
    parts, numbers = chunked(case, data, chunks, varlen=varlen, drafts=drafts)
    found = calls.run(parts, backend, numbers)
    for i, chunk in enumerate(chunks):
        same_bits(tokens_of(parts, found, Chunk(i, 0, chunk.end - chunk.begin)), tokens_of(case, wanted, chunk))


def check_threads(case: Case, backend) -> None:
    """Which threads have the pieces of a tile does not show."""
    numbers = make_data(case)
    alone = calls.run(case.but(num_threads=1), backend, numbers)
    calls.check_result(case, numbers, alone)
    for threads in (2, 3, 5):
        same_bits(alone, calls.run(case.but(num_threads=threads), backend, numbers))


def check_every_size(case: Case, backend) -> None:
    """The only request's query tokens in chunks of any of these sizes, in calls of both forms."""
    numbers = make_data(case)
    wanted = calls.run(case, backend, numbers)
    calls.check_result(case, numbers, wanted)
    for size in (1, 2, 4, 8, 16):
        chunks = [Chunk(0, begin, begin + size) for begin in range(0, case.s_q, size)]
        for varlen in (False, True):
            check_chunks(case, backend, numbers, wanted, chunks, varlen=varlen)
    check_chunks(case, backend, numbers, wanted, [Chunk(0, 3, 4)], varlen=False, drafts=3)
    many = 150 if case.h_q <= 16 else 20  # so that tiles are whole that were cut before
    check_chunks(case, backend, numbers, wanted, [Chunk(0, 15, 16)] * many, varlen=False)


def check_digits(case: Case, backend) -> None:
    """A float32 out has more digits than the dtype of q, unless what it should hold has no more: one token's latent."""
    numbers = make_data(case)
    out, _ = calls.reference(case, numbers)
    result = calls.run(case, backend, numbers).out
    longer, expected = (
        np.count_nonzero(values != values.astype(DTYPES[case.dtype]).astype(np.float32))
        for values in (result, out.astype(np.float32))
    )
    assert 2 * longer >= expected, f"out: {longer} elements have more digits than {case.dtype}, expected {expected}"


def check_repeated(case: Case, backend) -> None:
    """The oracle's result where a request reads every page of the pool equally often, as often as it may take."""
    numbers = make_data(case)
    pages = np.arange(case.num_blocks, dtype=np.int32)
    numbers.block_table[:] = np.resize(pages, case.max_blocks)
    pool = case.num_blocks * case.page_size
    times, rest = divmod(case.lengths[0], pool)
    assert times > 0
    assert rest == 0
    assert case.batch == 1
    once = numbers.q, numbers.kv_cache, pages[None], np.array([pool], np.int32)
    out, lse = oracle.dense_decode(*once, case.softmax_scale)
    result = calls.run(case, backend, numbers)
    bound = calls.bound_of(case)
    compare.check_lse(result.lse.astype(np.float64), lse + np.log(times), bound)
    compare.check_out(result.out.astype(np.float64), out, bound)
