"""Batch-invariant calls take bounded memory: a little for a plan, and for partial results at most twice the rows of
results in float32 and 64 MiB more.
"""

from __future__ import annotations

import pytest

from ops.dense_decode.case import Case
from ops.dense_decode.shape_only import decode_call, plan_call
from shape_only import CPU

# Tables of 163,840 tokens: a chunk of a prompt among requests of one token, a prompt, drafts.
TABLES = Case(h_q=128, num_blocks=100, max_blocks=2560, batch_invariant=True)
OFFSETS = (0, 8192, *range(8193, 8448))
CALLS = {
    "chunk": TABLES.but(lengths=(1,) * 256, s_q=8192, cu_seqlens_q=OFFSETS, total_q=8447),
    "prompt": TABLES.but(lengths=(1,), s_q=8192),
    "drafts": TABLES.but(lengths=(1,) * 512, s_q=4),
    "step": TABLES.but(lengths=(1,) * 64),
    "few heads": TABLES.but(lengths=(1,) * 64, h_q=16),
}
OVERHEAD = 1 << 16  # plans, and what is rounded up


def check(case: Case, workspace: int, plan: int) -> None:
    rows = (case.total_q or case.batch * case.s_q) * case.h_q
    assert plan <= OVERHEAD
    assert workspace <= 2 * 4 * case.d_v * rows + (64 << 20) + OVERHEAD


@pytest.mark.parametrize("call", CALLS)
def test_on_the_cpu(call):
    case = CALLS[call]
    (status, workspace), (other, plan) = decode_call(case, (CPU, 0)).size(), plan_call(case, (CPU, 0)).size()
    assert (status, other) == (0, 0)
    check(case, workspace, plan)


@pytest.mark.parametrize("call", CALLS)
def test_on_a_gpu(cuda_12_0, call):
    case = CALLS[call]
    ran = cuda_12_0.run(
        "from ops.dense_decode.shape_only import decode_call, plan_call\n"
        f"for made in (decode_call, plan_call): tell(*made({case!r}).size())\n"
    )
    (status, workspace), (other, plan) = ran.told
    assert (status, other) == (0, 0)
    check(case, workspace, plan)
    # No more is reserved than the tiles between so few parts can leave.
    assert workspace <= 1 << 30
