"""What tests of relations between calls share."""

from __future__ import annotations

import numpy as np

import compare
from attention import same_bits
from buffers import DTYPES
from ops.dense_decode import calls, oracle
from ops.dense_decode.case import Case, gathered, make_data

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
# Requests of 3, 0, 1 and 2 query tokens; one token before them and one behind belong to none.
MIXED = STEP.but(
    s_q=3, lengths=(300, 71, 0, 129), cu_seqlens_q=(1, 4, 4, 5, 7), total_q=8, num_blocks=14, given=("out", "lse")
)
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
