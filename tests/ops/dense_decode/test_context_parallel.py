"""A cache that is a shard of a larger one. ops/merge_states/test_context_parallel.py joins the shards."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ops.dense_decode import calls
from ops.dense_decode.case import INT32_MAX, Case, make_data
from ops.dense_decode.oracle import Shard

WHOLE = Case(
    h_q=20, h_kv=2, num_blocks=24, max_blocks=8, lengths=(300, 71, 1, 0, 512), causal=True, given=("lse",), seed=11
)


def test_one_shard_of_one_is_the_whole_cache(backend):
    numbers = make_data(WHOLE)
    plain = calls.run(WHOLE, backend, numbers)
    for interleave in (1, 16, INT32_MAX):
        case = WHOLE.but(shard=Shard(0, 1, interleave), global_seqlens=WHOLE.lengths)
        sharded = dataclasses.replace(numbers, global_seqlens=np.array(WHOLE.lengths, np.int32))
        assert plain.bits() == calls.run(case, backend, sharded).bits()


@pytest.mark.parametrize("total", [-(2**31), -1, 0, 1, 63, 64, 129, INT32_MAX])
def test_global_lengths_bound_what_is_attended(backend, total):
    """Whatever the shard's own lengths are; slots beyond the bound hold NaN."""
    for s_q in (1, 3):
        case = WHOLE.but(s_q=s_q, shard=Shard(1, 3, 16), global_seqlens=(total,) * WHOLE.batch)
        calls.check(case, backend)
        calls.check(case.but(causal=False, plan="stale"), backend)


def test_variable_length_queries_over_a_shard(backend):
    offsets = (0, 3, 3, 4, 6, 8)
    case = WHOLE.but(
        s_q=3, cu_seqlens_q=offsets, total_q=8, shard=Shard(2, 4, 16), global_seqlens=(900, 300, 3, 0, 2048)
    )
    calls.check(case, backend)
    calls.check(case.but(plan="stale", batch_invariant=True, lse_base2=True, empty_lse_minus=True), backend)
