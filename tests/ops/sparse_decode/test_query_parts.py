"""q in two parts: the same bits as with all columns in one tensor, wherever the parts lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import backends
import flashmla
from attention import same_bits
from buffers import Layout
from ops.sparse_decode import calls, strategies
from ops.sparse_decode.case import Cache, SparseCase, SparseLayouts
from ops.sparse_decode.data import make_data
from properties import share

PARTED = SparseCase(
    batch=2, s_q=3, h_q=20, parted=True, main=Cache(num_blocks=5, topk=150), given=("lse",),
    layouts=SparseLayouts(q=Layout(order=(2, 0, 1, 3)), q_rope=Layout(gaps=(0, 0, 16))),
)  # fmt: skip


def same_as_whole(case: SparseCase, backend) -> None:
    numbers = make_data(case)
    found = calls.run(case, backend, numbers)
    same_bits(found, calls.run(case.but(parted=False), backend, numbers))
    calls.check_result(case, numbers, found)


@share(1 / 5)
@given(data=st.data())
def test_two_parts_give_the_bits_of_one(backend, data):
    read = [name for name in ("bf16", "v32", "fp8") if name in strategies.formats_on(backend)]
    case = data.draw(strategies.cases(backend, d_qk=576, kv_formats=tuple(read), with_lse=True))
    same_as_whole(case.but(parted=True), backend)


@pytest.mark.parametrize("h_q", [20, 128])
@pytest.mark.parametrize("kv_format", ["bf16", "v32", "fp8"])
@pytest.mark.parametrize("plan", ["none", "fresh"])
@pytest.mark.parametrize("extra", [None, "bf16", "v32"])
def test_every_way_to_read_caches(backend, kv_format, h_q, plan, extra):
    strategies.skip_unless_read(backend, kv_format)
    second = None if extra is None else Cache(kv_format=extra, page_size=7, num_blocks=9, topk=70)
    same_as_whole(PARTED.but(kv_format=kv_format, h_q=h_q, plan=plan, extra=second, paired=plan == "fresh"), backend)


@pytest.mark.parametrize("d_qk", [320, 288, 160, 1088])
def test_other_geometries(d_qk):
    same_as_whole(PARTED.but(d_qk=d_qk), backends.cpu())


def test_variable_length_queries(backend):
    layouts = SparseLayouts(q=Layout(order=(1, 0, 2)))
    same_as_whole(PARTED.but(cu_seqlens_q=(0, 3, 5), total_q=6, layouts=layouts), backend)


def test_the_fast_way_is_taken(only_fast):
    numbers = make_data(PARTED.but(dtype="float32", s_q=2, topk=30))
    q, kv_cache, indices = numbers.q, numbers.caches[""].kv_cache, numbers.caches[""].indices
    latent, rope = np.ascontiguousarray(q[..., :512]), np.ascontiguousarray(q[..., 512:])
    with only_fast():
        plan = flashmla.plan_sparse_decode(latent, indices, q_rope=rope)
    wanted = flashmla.sparse_decode(q, kv_cache, indices)
    flashmla.sparse_decode(latent, kv_cache, indices, q_rope=rope)
    with only_fast():
        found = flashmla.sparse_decode(latent, kv_cache, indices, q_rope=rope)
    planned = flashmla.sparse_decode(latent, kv_cache, indices, q_rope=rope, plan=plan)
    for results in (found, planned):
        for one, other in zip(results, wanted, strict=True):
            np.testing.assert_array_equal(one, other)
    size = flashmla.plan_sparse_decode_size
    assert size(latent, indices, q_rope=rope) == size(q, indices)
    size = flashmla.sparse_decode_workspace_size
    assert size(latent, kv_cache, indices, q_rope=rope) == size(q, kv_cache, indices)
