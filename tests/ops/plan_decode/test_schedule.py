"""The NumPy schedule against the host's: what judges the device scheduler is itself right."""

import numpy as np
import pytest

import schedule
from ops.dense_decode.case import Case
from ops.plan_decode.relations import CPU, LEVELS, RAGGED, check_host_schedule

PAGE_SIZES = (16, 64, 256)
CASES = [(2, 1 << 16), (4, 1 << 16), (100, 40_000)]  # requests and their length


@pytest.mark.parametrize("num_splits", [0, 1, 3, 32, 1024, "invariant"])
@pytest.mark.parametrize("spread", schedule.SPREADS)
@pytest.mark.parametrize("varlen", [False, True], ids=["batched", "varlen"])
def test_it_is_that_of_the_host_scheduler(num_splits, spread, varlen):
    draw = np.random.default_rng((len(str(num_splits)), len(spread), varlen))
    invariant = num_splits == "invariant"
    forced = 0 if invariant else num_splits
    for _ in range(60 if num_splits == 0 else 5):
        batch, s_q, page_size = int(draw.integers(1, 40)), int(draw.integers(1, 4)), int(draw.choice(PAGE_SIZES))
        max_blocks = int(draw.integers(1024, 3000)) * 64 // page_size
        lengths = schedule.draw_lengths(draw, spread, batch, page_size * max_blocks)
        extents = {"s_q": s_q, "h_q": 2 * CPU.block_rows, "h_kv": int(draw.choice([1, 2])), "max_blocks": max_blocks}
        extents |= {"page_size": page_size, "batch_invariant": invariant}
        case = Case(**extents, lengths=tuple(map(int, lengths)), num_splits=forced)
        if varlen:
            offsets, total = schedule.draw_offsets(draw, batch, s_q)
            case = case.but(cu_seqlens_q=tuple(map(int, offsets)), total_q=total)
        check_host_schedule(case)


def test_every_level_is_found():
    levels = [check_host_schedule(LEVELS.but(lengths=(length,) * batch)).first_slot[-1] for batch, length in CASES]
    assert levels == [0, 1, 2]


def test_ragged_requests():
    check_host_schedule(RAGGED)


def test_the_longest_request_has_no_queries():
    """Then no tile costs as much, and parts are no less even."""
    lengths = (3_000, 700, 1 << 16, 900, 2_500, 60)
    check_host_schedule(LEVELS.but(lengths=lengths, cu_seqlens_q=(0, 1, 2, 2, 3, 4, 5), total_q=5, s_q=1))
    many = (1 << 16, *range(40_000, 53_000, 100))  # of which more pieces would be stored than there is room for
    offsets = (0, *range(len(many)))
    case = LEVELS.but(lengths=many, cu_seqlens_q=offsets, total_q=offsets[-1], s_q=1)
    found = check_host_schedule(case)
    assert found.first_slot[-1] == 2
    assert np.diff(found.cuts[:, 0]).max() <= 3


@pytest.mark.parametrize("d", [1, 2, 3, 5, 7, 64, 127, 128, 641, 65_535, 10**6 + 3, 2**30 - 1, 2**30, 2**31 - 1])
def test_a_multiplication_divides(d):
    """schedule.divide of the kernels, in 64 bits."""
    packed = schedule.divisor(d)
    shift, multiplier = packed >> 32, packed & 0xFFFFFFFF
    assert multiplier < 2**32
    near = {k * d + e for k in (0, 1, 2, 1000, (2**31 - 1) // d) for e in (-1, 0, 1)}
    for n in {*near, 0, 1, 2**31 - 1, 2**31 - 2, 123_456_789}:
        if 0 <= n < 2**31:
            assert n * multiplier < 2**63
            assert n * multiplier >> shift == n // d
