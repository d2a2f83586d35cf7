"""Values that live on the device may be anything; shapes may be any of the supported ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import compare
import flashmla
import operations
from gpu.steps import STEP, to_numpy
from ops.dense_decode import calls, oracle
from ops.dense_decode.case import INT32_MAX, INT32_MIN, Case, make_data

HERE = Path(__file__).parent
HEADS = (1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 100, 127, 128)
GIGABYTE = 10**9


@pytest.mark.parametrize(
    ("program", "last_line"),
    [("garbage_plans.py", "right after garbage"), ("changing_values.py", "right after changes")],
)
@pytest.mark.parametrize("operation", operations.having("hostile"))
def test_garbage_never_faults_or_hangs(operation, program, last_line):
    """Faults and hangs would kill this process: they are another one's, which gets 80 s."""
    paths = os.pathsep.join([str(HERE), *sys.path])
    done = subprocess.run(
        [sys.executable, HERE / program, operation],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    assert done.stdout.endswith(f"{last_line}\n"), done.stdout + done.stderr


@pytest.mark.parametrize("s_q", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_any_number_of_heads(gpu, dtype, s_q):
    for number, h_q in enumerate(HEADS):
        lengths = (70 + 13 * number, s_q - 1, 64 * (number % 3), 129)
        case = Case(dtype, s_q, h_q, num_blocks=20, max_blocks=5, lengths=lengths, causal=number % 2 == 0)
        calls.check(case.but(given=("lse",), bad_pages=number % 3 == 0), gpu)


@pytest.mark.parametrize("page_size", [64, 1, 16, 48, 128])
@pytest.mark.parametrize("h_q", [1, 64, 128])
@pytest.mark.parametrize("page", [INT32_MIN, INT32_MIN + 1, -1, 400, 2**26, 2**30, INT32_MAX - 1, INT32_MAX])
def test_page_numbers_far_outside_the_cache_are_pages_of_zeros(gpu, page, h_q, page_size):
    case = STEP.but(route="c", h_q=h_q, h_kv=1, page_size=page_size, max_blocks=384 // page_size, num_blocks=400)
    data = make_data(case)
    data.block_table[0, 1] = data.block_table[1, 0] = page
    calls.check_result(case, data, calls.run(case, gpu, data))


@pytest.mark.parametrize("lengths", [(INT32_MIN, INT32_MAX), (-1, 385), (-64, 2**30), (INT32_MIN, -1)])
@pytest.mark.parametrize("plan", ["none", "fresh", "stale"])
@pytest.mark.parametrize("causal", [True, False])
def test_lengths_outside_the_tables_are_clamped(gpu, lengths, plan, causal):
    calls.check(STEP.but(route="c", lengths=lengths, plan=plan, causal=causal), gpu)


@pytest.mark.parametrize(
    ("dtype", "page_size", "d_qk"),
    [
        *(("bfloat16", page_size, 576) for page_size in (64, 256, 16, 1, 80)),
        ("float16", 64, 576),
        ("bfloat16", 64, 512),
        ("float16", 16, 512),
        ("bfloat16", 2, 320),
        ("bfloat16", 64, 160),
    ],
)
def test_a_cache_of_more_than_2_to_the_32_elements(dtype, page_size, d_qk):
    """Pages at its end: a 32-bit offset anywhere would read another place."""
    page = page_size * d_qk
    num_blocks = 2**32 // page + 200_000 // page_size
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    needed = 2 * num_blocks * page + GIGABYTE
    if free < needed:
        pytest.skip(f"{free / GIGABYTE:.1f} GB of GPU memory are free, {needed / GIGABYTE:.1f} are needed")
    torch.manual_seed(0)
    used, length = 2560 // page_size, 2500
    kind = getattr(torch, dtype)
    cache = torch.empty(num_blocks, page_size, 1, d_qk, dtype=kind, device="cuda")
    middle = 2**31 // page - used // 4  # the pages around element 2^31
    numbers = torch.cat(
        [torch.arange(middle, middle + used // 2), torch.arange(num_blocks - (used - used // 2), num_blocks)]
    )
    pages = numbers[torch.randperm(used)].to(device="cuda", dtype=torch.int32)
    small = torch.randn(used, page_size, 1, d_qk, device="cuda").to(kind)
    cache[pages.long()] = small
    q = torch.randn(2, 1, 128, d_qk, device="cuda").to(kind)
    table = torch.stack([pages, pages.flip(0)])
    lengths = torch.tensor([length, length - 100], dtype=torch.int32, device="cuda")
    out, lse = flashmla.dense_decode(q, cache, table, lengths)

    order = np.arange(used, dtype=np.int32)
    want_out, want_lse = oracle.dense_decode(
        to_numpy(q), to_numpy(small), np.stack([order, order[::-1]]), to_numpy(lengths)
    )
    bound = compare.tolerance("dense_decode", dtype)
    compare.check_lse(to_numpy(lse).astype(np.float64), want_lse, bound)
    compare.check_out(to_numpy(out).astype(np.float64), want_out, bound)
