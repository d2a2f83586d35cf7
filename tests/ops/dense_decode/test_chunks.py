"""With batch_invariant a query token has the same bits in any chunk of its request, whatever comes with it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.dense_decode import calls, strategies
from ops.dense_decode.case import make_data
from ops.dense_decode.relations import CHUNK, Chunk, check_chunks, check_every_size
from properties import share


def cut(draw: np.random.Generator, case, request: int) -> list[Chunk]:
    """A request's query tokens in chunks of any sizes."""
    rows = case.query_rows(request)
    count = rows.stop - rows.start
    edges = np.unique([0, *draw.integers(0, count + 1, int(draw.integers(0, 4))), count]).tolist()
    return [Chunk(request, begin, end) for begin, end in itertools.pairwise(edges)]


@share(1 / 5)
@given(data=st.data())
def test_any_chunks_of_any_call(backend, data):
    plan = st.sampled_from(("none", "fresh"))
    case = data.draw(strategies.cases(backend, num_splits=0, plan=data.draw(plan), batch_invariant=True, with_lse=True))
    numbers = make_data(case)
    wanted = calls.run(case, backend, numbers)
    draw = np.random.default_rng(case.seed)
    chunks = [chunk for request in range(case.batch) for chunk in cut(draw, case, request)]
    if not chunks:
        return
    draw.shuffle(chunks)
    chunks = [Chunk(*map(int, chunk)) for chunk in chunks]
    changed = case.but(plan=data.draw(plan), num_threads=data.draw(st.sampled_from((0, 1, 3))))
    check_chunks(changed, backend, numbers, wanted, chunks, varlen=True, drafts=data.draw(st.sampled_from((0, 1, 4))))
    one = chunks[0]
    check_chunks(changed, backend, numbers, wanted, [one], varlen=False, drafts=data.draw(st.sampled_from((0, 2))))


@pytest.mark.parametrize("h_q", [1, 8, 16, 48, 128])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
def test_every_size_of_chunks(backend, h_q, causal):
    check_every_size(CHUNK.but(h_q=h_q, causal=causal), backend)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_long_prompt_in_chunks(backend, dtype):
    """Of 8,192 tokens, of which each attends those before it: so that begins of pieces lie inside of chunks."""
    if dtype not in backend.dtypes:
        pytest.skip(f"no {dtype} on this backend")
    tokens, pages = 8192, 8192 // 64
    case = CHUNK.but(dtype=dtype, d_qk=320, h_q=1, s_q=tokens, lengths=(tokens,), num_blocks=pages, max_blocks=pages)
    numbers = make_data(case)
    wanted = calls.run(case, backend, numbers)
    draw = np.random.default_rng(0)
    for size in (1, 2, 4, 63):
        begins = [0, *draw.integers(0, tokens - size, 60).tolist(), tokens - size]
        check_chunks(case, backend, numbers, wanted, [Chunk(0, b, b + size) for b in begins], varlen=False)
    edges = [0, 5, 512, 513, 3000, 3001, 4096, 8000]
    chunks = [Chunk(0, *edge) for edge in itertools.pairwise(edges)]
    check_chunks(case, backend, numbers, wanted, chunks, varlen=True)
