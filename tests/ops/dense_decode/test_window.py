"""A sliding window: each query token attends the last tokens of those that it sees, and nothing older is read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attention import Result, same_bits
from backends import Backend
from buffers import PAGES
from ops.dense_decode import calls
from ops.dense_decode.calls import Tensors, make_plan
from ops.dense_decode.case import Layouts, make_data
from ops.dense_decode.relations import LONG
from ops.dense_decode.shape_only import STEP
from stub_driver.launches import decoded, family


@pytest.fixture
def cpu(backend) -> Backend:
    if backend.name != "cpu":
        pytest.skip("of the CPU backend")
    return backend


@pytest.mark.parametrize("window", [1, 28, 63, 64, 65, 1000, 5000])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("plan", [("none", 0), ("fresh", 7), ("stale", 0)])
def test_windows_of_any_length(backend, window, causal, plan):
    calls.check(LONG.but(window=window, causal=causal, plan=plan[0], num_splits=plan[1]), backend)


@pytest.mark.parametrize("window", [1, 63, 65, 130, 5000])
@pytest.mark.parametrize("kv_format", ["bf16", "v32"])
def test_windows_where_rows_are_gathered(backend, window, kv_format):
    """NaN lies before windows and behind lengths. A GPU fetches these rows one by one."""
    case = LONG.but(window=window, page_size=7, max_blocks=700, num_blocks=1500, kv_format=kv_format, h_q=16)
    if kv_format != "bf16":
        case = case.but(layouts=Layouts(kv_cache=PAGES))
    calls.check(case, backend)


def test_a_window_of_all_tokens_is_none(backend):
    case = LONG.but(window=0, dtype="float32" if backend.name == "cpu" else "bfloat16", d_qk=320)
    numbers = make_data(case)
    alone = [case.but(s_q=1, window=window) for window in (0, 4800, 2**31 - 1)]
    numbers = replace(numbers, q=numbers.q[:, :1])
    first, *others = [calls.run(one, backend, numbers) for one in alone]
    for other in others:
        calls.check_result(alone[0], numbers, other)
    same_bits(*others)
    calls.check_result(alone[0], numbers, first)


def test_what_a_row_attends_is_a_call_on_those_tokens(backend):
    """In pages of one token a table may begin anywhere."""
    case = LONG.but(page_size=1, num_blocks=900, max_blocks=800, lengths=(777,), window=130, s_q=1, causal=False)
    numbers = make_data(case)
    cut = replace(numbers, block_table=numbers.block_table[:, 647:777].copy(), cache_seqlens=np.array([130], np.int32))
    wanted = calls.reference(case.but(window=0, max_blocks=130, lengths=(130,)), cut)
    found = calls.run(case, backend, numbers)
    calls.check_result(case, numbers, found)
    calls.check_result(case.but(window=0, max_blocks=130, lengths=(130,)), cut, found)
    assert wanted[0].shape == found.out.shape


@pytest.mark.parametrize("window", [40, 600, 3000])
def test_batch_invariant_rows(backend, window):
    """Beside other query tokens and requests, and alone."""
    case = LONG.but(window=window, batch_invariant=True)
    numbers = make_data(case)
    together = calls.run(case, backend, numbers)
    last = case.but(s_q=1, lengths=case.lengths[:1])
    alone = replace(
        numbers, q=numbers.q[:1, -1:], block_table=numbers.block_table[:1], cache_seqlens=numbers.cache_seqlens[:1]
    )
    row = Result(together.out[:1, -1:].copy(), together.lse[:1, :, -1:].copy())
    same_bits(row, calls.run(last, backend, alone))


def test_the_schedule_has_no_units_before_the_window(cpu):
    """4,700 tokens have 74 units, the last 102 of them at most 3."""
    case = LONG.but(plan="fresh", lengths=(4700, 4700, 4700))
    tiles = case.batch * case.s_q
    words = make_plan(Tensors(case, cpu)).buffer.values().reshape(-1)[: 8 * tiles].view(np.int32).reshape(-1, 2)
    cuts = words[: 1 + int(np.argmax(words[:, 0] == tiles))]
    assert cuts[-1].tolist() == [tiles, 0]
    assert len(cuts) > 2
    assert cuts[:, 1].max() < 3


@pytest.mark.parametrize("case", [STEP, STEP.but(h_q=128), STEP.but(page_size=7)], ids=["", "128 heads", "gathered"])
def test_batch_invariant_calls_with_a_window_split_no_request_on_a_gpu(cuda_12_0, case):
    """By the kernels of other calls; with a plan as without one, the same."""
    case = case.but(window=7, batch_invariant=True)
    ran = cuda_12_0.run(f"decode({case!r}); decode({case!r}, plan=plan({case!r}))")
    assert [line[0] for line in ran.told] == [0, 0, 0]
    assert ran.told[0][3] == ran.told[2][3]
    assert "invariant" not in ran.told[0][3]
    assert [family(launch["kernel"]) for launch in ran.launches()] == ["plan", "dense_decode"] * 2
    for launch in ran.launches():
        found = decoded(launch)
        assert found["num_parts"] == found["num_tiles"]
        assert found["window"] == 7
