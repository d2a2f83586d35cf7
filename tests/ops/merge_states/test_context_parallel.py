"""A cache that is dealt out to shards: the merged results of the shards are that of the whole cache."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flashmla
from attention import Result
from ops.dense_decode import calls, strategies
from ops.dense_decode.case import Case, Data, make_data
from ops.dense_decode.oracle import Shard
from ops.dense_decode.relations import close
from properties import share

WHOLE = Case(
    h_q=20, h_kv=2, num_blocks=24, max_blocks=8, lengths=(300, 71, 1, 0, 512), causal=True, given=("lse",), seed=11
)


def rows_of(case: Case, data: Data, i: int) -> np.ndarray:
    """The latents of request i as they follow one another; the table is garbage behind them."""
    used = -(-case.lengths[i] // case.page_size)
    return data.kv_cache[data.block_table[i, :used]].reshape(-1, *data.kv_cache.shape[2:])


def deal(case: Case, data: Data, shard: Shard) -> tuple[Case, Data]:
    """What the shard holds of a call on the whole cache: every request has pages of its own, NaN behind its tokens."""
    size, columns = case.page_size, case.max_blocks
    cache = np.full((case.batch * columns, *data.kv_cache.shape[1:]), np.nan, data.kv_cache.dtype)
    table = np.random.default_rng(case.seed).permutation(len(cache)).astype(np.int32).reshape(case.batch, columns)
    lengths = []
    for i, length in enumerate(case.lengths):
        mine = shard.global_tokens(length)
        mine = mine[mine < length]
        lengths.append(len(mine))
        rows = np.full((columns * size, *cache.shape[2:]), np.nan, cache.dtype)
        rows[: len(mine)] = rows_of(case, data, i)[mine]
        cache[table[i]] = rows.reshape(columns, *cache.shape[1:])
    facts = case.but(
        lengths=tuple(lengths), shard=shard, global_seqlens=case.lengths, num_blocks=len(cache), out_dtype="float32"
    )
    return facts, dataclasses.replace(
        data,
        kv_cache=cache,
        block_table=table,
        cache_seqlens=np.array(lengths, np.int32),
        stale_seqlens=np.array(lengths, np.int32),
        global_seqlens=np.array(case.lengths, np.int32),
    )


def check_merged(case: Case, data: Data, backend, world: int, interleave: int) -> None:
    """Each shard is the oracle's; all of them merged are the oracle's on the whole cache."""
    outs, lses = [], []
    for rank in range(world):
        facts, numbers = deal(case, data, Shard(rank, world, interleave))
        part = calls.run(facts, backend, numbers)
        calls.check_result(facts, numbers, part)
        outs.append(part.out)
        lses.append(part.lse)
    adapter = backend.adapter("c")
    empty_lse = -np.inf if case.empty_lse_minus else np.inf
    merged = flashmla.merge_states(
        [adapter.place(out) for out in outs],
        [adapter.place(lse) for lse in lses],
        lse_base2=case.lse_base2,
        empty_lse=empty_lse,
    )
    result = Result(*(adapter.to_numpy(made) for made in merged))
    calls.check_result(case, data, result)
    close(case, result, calls.run(case.but(out_dtype="float32"), backend, data))


@pytest.mark.parametrize("interleave", [1, 16, 64])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_merged_shards_are_the_whole(backend, world, interleave):
    for s_q in (1, 2, 3):
        case = WHOLE.but(s_q=s_q, lse_base2=s_q == 2, empty_lse_minus=s_q == 3)
        check_merged(case, make_data(case), backend, world, interleave)


@share(1 / 10)
@given(data=st.data())
def test_any_call_may_be_sharded(backend, data):
    case = data.draw(
        strategies.cases(
            backend,
            varlen=False,
            sharded=False,
            bad_pages=False,
            sink=None,
            with_lse=True,
            route="c",
            plan="none",
            kv_formats=("bf16",),
            window=0,
        )
    )
    case = case.but(lengths=tuple(min(max(length, 0), case.capacity) for length in case.lengths), num_splits=0)
    numbers = make_data(case)
    check_merged(case, numbers, backend, data.draw(st.integers(1, 4)), data.draw(st.sampled_from((1, 16, 64, 5))))
