"""Scratch stays bounded whatever the numbers of query tokens, requests and indices are, and does not follow lengths."""

from __future__ import annotations

import pytest

from ops.sparse_decode.relations import EXTRA
from ops.sparse_decode.shape_only import STEP, decode_call
from shape_only import CPU

MOST = 160 << 20  # bytes
CALLS = {
    "a step": STEP,
    "a prompt": STEP.but(batch=1, s_q=32_768),
    "many prompts": STEP.but(batch=64, s_q=32_768),
    "many requests": STEP.but(batch=65_536, s_q=1),
    "packed": STEP.but(batch=200, s_q=8192, cu_seqlens_q=(0,) * 201, total_q=32_768),
    "long selections": STEP.but(topk=1_000_000, extra=EXTRA.but(topk=1_000_000, lengths=None)),
}


@pytest.mark.parametrize("call", CALLS)
def test_on_the_cpu(call):
    for batch_invariant in (False, True):
        case = CALLS[call].but(batch_invariant=batch_invariant)
        status, size = decode_call(case, (CPU, 0)).size()
        assert status == 0
        # Batch invariant: at most twice the rows of results in float32, too.
        assert size <= MOST + batch_invariant * 8 * 512 * (case.total_q or case.batch * case.s_q) * case.h_q
        with_lengths = [case.but(lengths=(length,) * case.batch) for length in (5, case.main.topk)]
        sizes = [decode_call(lengths, (CPU, 0)).size() for lengths in with_lengths]
        assert sizes[0] == sizes[1]
        assert size <= sizes[0][1] <= MOST + size


def test_on_a_gpu(cuda_12_0):
    cases = [case.but(batch_invariant=invariant) for case in CALLS.values() for invariant in (False, True)]
    ran = cuda_12_0.run(
        "from ops.sparse_decode.shape_only import decode_call\n"
        f"for case in {cases!r}:\n"
        "    tell(*decode_call(case).size(), decode_call(case.but(lengths=(5,) * case.batch)).size()[1])\n"
    )
    for status, size, with_lengths in ran.told:
        assert status == 0
        assert size <= with_lengths <= MOST


def test_two_formats_on_a_gpu(cuda_12_0):
    """Two slots of 64 rows for each query token, and four cuts."""
    case = STEP.but(extra=EXTRA.but(kv_format="v32", page_size=8, lengths=None), batch=1, h_q=64)
    prompts = [case.but(s_q=s_q) for s_q in (1000, 2000, 32_000)]
    ran = cuda_12_0.run(
        "from ops.sparse_decode.shape_only import decode_call\n"
        f"for case in {prompts!r}:\n"
        "    tell(*decode_call(case).size())\n"
    )
    assert [status for status, _ in ran.told] == [0] * 3
    sizes = [size for _, size in ran.told]
    assert [size // prompt.s_q for size, prompt in zip(sizes, prompts, strict=True)] == [
        2 * 64 * (512 * 2 + 16) + 32
    ] * 3
