"""plan_sparse_decode in Python: plans of every framework, who may use them, and what they say."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import flashmla
from ops.sparse_decode.test_bindings import ALL, EXTRA_INDICES, INDICES, KV_CACHE, LENGTHS, OFFSETS, Q, torch_of

PLANNED = {name: ALL[name] for name in ("topk_length", "extra_indices", "extra_topk_length")}


def same(one, other) -> bool:
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(one, other, strict=True))


@pytest.fixture(params=["numpy", "torch", "jax"])
def convert(request):
    """Arrays to the framework's tensors."""
    if request.param == "numpy":
        return lambda array: array
    if request.param == "torch":
        pytest.importorskip("torch")
        return torch_of
    jax = pytest.importorskip("jax")
    return lambda array: jax.numpy.asarray(array.astype(np.int32) if array.dtype == np.int64 else array)


@pytest.mark.parametrize("num_splits", [0, 1, 2])
@pytest.mark.parametrize("given", [{}, PLANNED], ids=["alone", "with all"])
def test_a_plan_serves_many_calls(convert, given, num_splits):
    q, kv_cache, indices = map(convert, (Q, KV_CACHE, INDICES))
    planned = {name: convert(value) for name, value in given.items()}
    more = {name: convert(value) for name, value in ALL.items()} if given else {}
    wanted = flashmla.sparse_decode(q, kv_cache, indices, **more)
    plan = flashmla.plan_sparse_decode(q, indices, num_splits=num_splits, **planned)
    for _ in range(2):
        found = flashmla.sparse_decode(q, kv_cache, indices, plan=copy.copy(plan), **more)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-5, atol=1e-6)
        assert num_splits > 0 or same(found, wanted), "the schedule is the one that the call makes"


def test_a_buffer_and_a_workspace_may_be_given():
    size = flashmla.plan_sparse_decode_size(Q, INDICES, **PLANNED)
    buffer = np.zeros(size, np.uint8)
    plan = flashmla.plan_sparse_decode(Q, INDICES, buffer=buffer, **PLANNED)
    alone = flashmla.sparse_decode_workspace_size(Q, KV_CACHE, INDICES, **ALL)
    planned = flashmla.sparse_decode_workspace_size(Q, KV_CACHE, INDICES, plan=plan, **ALL)
    assert planned + size == alone
    assert buffer.any()
    with pytest.raises(flashmla.InvalidArgumentError, match=rf"^buffer has {size - 16} bytes"):
        flashmla.plan_sparse_decode(Q, INDICES, buffer=buffer[:-16], **PLANNED)
    workspace = np.zeros(planned, np.uint8)
    found = flashmla.sparse_decode(Q, KV_CACHE, INDICES, plan=plan, workspace=workspace, **ALL)
    assert same(found, flashmla.sparse_decode(Q, KV_CACHE, INDICES, **ALL))
    buffer.view(np.int32)[0] = -7
    with pytest.raises(flashmla.InvalidArgumentError, match="no longer holds its schedule"):
        flashmla.sparse_decode(Q, KV_CACHE, INDICES, plan=plan, **ALL)


def test_packed_queries():
    packed = {"cu_seqlens_q": OFFSETS, "max_seqlen_q": 3}
    q, indices = Q.reshape(4, 4, 576), INDICES.reshape(4, 9)
    plan = flashmla.plan_sparse_decode(q, indices, topk_length=LENGTHS, **packed)
    found = flashmla.sparse_decode(q, KV_CACHE, indices, topk_length=LENGTHS, plan=plan, **packed)
    assert same(found, flashmla.sparse_decode(q, KV_CACHE, indices, topk_length=LENGTHS, **packed))


def test_prepared_calls(convert):
    q, kv_cache, indices, lengths = map(convert, (Q, KV_CACHE, INDICES, LENGTHS))
    if not isinstance(q, np.ndarray) and type(q).__module__.startswith("jax"):
        pytest.skip("JAX arrays never change")
    planner = flashmla.prepare(flashmla.plan_sparse_decode, q, indices, topk_length=lengths)
    plan = planner()
    assert planner() is plan
    decode = flashmla.prepare(flashmla.sparse_decode, q, kv_cache, indices, topk_length=lengths, plan=plan)
    wanted = flashmla.sparse_decode(q, kv_cache, indices, topk_length=lengths)
    assert same(decode(), wanted)
    other = flashmla.plan_sparse_decode(q, indices, topk_length=lengths)
    assert same(decode(plan=other), wanted)
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^plan was made for topk 3, indices.shape\[2\] is 9$"):
        decode(plan=flashmla.plan_sparse_decode(q, indices[..., :3]))
    with pytest.raises(TypeError, match=r"a flashmla\.Plan is needed$"):
        decode(plan=7)


def test_what_a_plan_says():
    plan = flashmla.plan_sparse_decode(Q, INDICES, num_splits=2)
    shapes = "q=(2, 2, 4, 576), indices=(2, 2, 9)"
    assert repr(plan) == f"<flashmla.Plan {shapes}, batch_invariant=False, num_splits=2>"
    unmade = flashmla.prepare(flashmla.plan_sparse_decode, Q, INDICES)
    assert repr(unmade()) == f"<flashmla.Plan {shapes}, batch_invariant=False, num_splits=0>"


def test_splits_of_batch_invariant_plans_do_not_show_on_the_cpu():
    indices = np.random.default_rng(0).integers(-9, 192, (2, 2, 3000))
    invariant = {"batch_invariant": True}
    wanted = flashmla.sparse_decode(Q, KV_CACHE, indices, **invariant)
    for num_splits in (0, 1, 7, 1024):
        plan = flashmla.plan_sparse_decode(Q, indices, num_splits=num_splits, **invariant)
        assert repr(plan).endswith(f"batch_invariant=True, num_splits={num_splits}>")
        assert same(flashmla.sparse_decode(Q, KV_CACHE, indices, plan=plan, **invariant), wanted)


def test_plans_are_of_their_operation():
    sparse = flashmla.plan_sparse_decode(Q, INDICES)
    table = np.zeros((2, 1), np.int32)
    dense = flashmla.plan_decode(Q, KV_CACHE, table, LENGTHS)
    with pytest.raises(flashmla.InvalidArgumentError, match=r"sparse_decode takes one of plan_sparse_decode$"):
        flashmla.sparse_decode(Q, KV_CACHE, INDICES, plan=dense)
    with pytest.raises(flashmla.InvalidArgumentError, match=r"dense_decode takes one of plan_decode$"):
        flashmla.dense_decode(Q, KV_CACHE, table, LENGTHS, plan=sparse)
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^plan was made for extra_topk 0, extra_indices\.shape"):
        flashmla.sparse_decode(Q, KV_CACHE, INDICES, plan=sparse, extra_kv_cache=KV_CACHE, extra_indices=EXTRA_INDICES)


@pytest.mark.parametrize("plan", [7, "plan", object()])
@pytest.mark.parametrize("function", [flashmla.sparse_decode, flashmla.sparse_decode_workspace_size])
def test_what_is_no_plan_is_not_followed(function, plan):
    with pytest.raises(TypeError, match=r"a flashmla\.Plan is needed$"):
        function(Q, KV_CACHE, INDICES, plan=plan)


def test_the_fast_way_is_taken(only_fast):
    with only_fast():
        plan = flashmla.plan_sparse_decode(Q, INDICES, **PLANNED)
        flashmla.sparse_decode(Q, KV_CACHE, INDICES, plan=plan, **ALL, out=np.empty((2, 2, 4, 512), np.float32),
                               return_lse=False)  # fmt: skip
