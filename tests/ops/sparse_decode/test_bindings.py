"""sparse_decode in Python: tensors of every framework, what is returned, and what is refused."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import flashmla
from buffers import DTYPES

RNG = np.random.default_rng(3)
Q = RNG.standard_normal((2, 2, 4, 576), np.float32)
KV_CACHE = RNG.standard_normal((3, 8, 1, 576), np.float32)
INDICES = RNG.integers(-1, 24, (2, 2, 9)).astype(np.int32)
LENGTHS = np.array([9, 4], np.int32)
SINK = np.array([0.5, 1, -np.inf, 7], np.float32)
EXTRA_CACHE = RNG.standard_normal((5, 3, 1, 576), np.float32)
EXTRA_INDICES = RNG.integers(-1, 15, (2, 2, 3)).astype(np.int64)
OFFSETS = np.array([0, 3, 4], np.int32)
ALL = {
    "topk_length": LENGTHS,
    "attn_sink": SINK,
    "extra_kv_cache": EXTRA_CACHE,
    "extra_indices": EXTRA_INDICES,
    "extra_topk_length": np.array([2, 3], np.int32),
}


def torch_of(array):
    torch = pytest.importorskip("torch")
    if not isinstance(array, np.ndarray):
        return array
    if array.dtype == DTYPES["bfloat16"]:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def attended(q, kv_cache, indices, sink=None):
    """In float64, of one query token: the mathematics alone."""
    keys = kv_cache.reshape(-1, q.shape[-1])[indices[indices >= 0]].astype(np.float64)
    weights = np.exp(q.astype(np.float64) @ keys.T * q.shape[-1] ** -0.5)
    sums = weights.sum(-1, keepdims=True)
    with np.errstate(over="ignore"):
        share = 1 if sink is None else sums / (sums + np.exp(sink.astype(np.float64))[:, None])
    return weights / sums @ keys[:, :512] * share, np.log(sums[:, 0])


def test_arrays_of_numpy():
    out, lse = flashmla.sparse_decode(Q, KV_CACHE, INDICES, topk_length=LENGTHS, attn_sink=SINK)
    assert (out.dtype, out.shape, lse.dtype, lse.shape) == (np.float32, (2, 2, 4, 512), np.float32, (2, 4, 2))
    for i, s in np.ndindex(2, 2):
        wanted = attended(Q[i, s], KV_CACHE, INDICES[i, s, : LENGTHS[i]], SINK)
        np.testing.assert_allclose(out[i, s], wanted[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(lse[i, :, s], wanted[1], atol=1e-5)


def test_frameworks_give_the_same(framework):
    wanted = flashmla.sparse_decode(Q, KV_CACHE, INDICES, **ALL)
    arguments, options = [Q, KV_CACHE, INDICES], dict(ALL)
    if framework == "torch":
        arguments, options = [*map(torch_of, arguments)], {name: torch_of(x) for name, x in ALL.items()}
    for _ in range(2):
        found = flashmla.sparse_decode(*arguments, **options)
        for one, other in zip(found, wanted, strict=True):
            assert type(one) is type(arguments[0])
            np.testing.assert_array_equal(np.asarray(one), other)


def test_jax_arrays():
    jax = pytest.importorskip("jax")
    wanted = flashmla.sparse_decode(Q, KV_CACHE, INDICES, topk_length=LENGTHS, attn_sink=SINK)
    q, kv_cache, indices, lengths, sink = map(jax.numpy.asarray, (Q, KV_CACHE, INDICES, LENGTHS, SINK))
    found = flashmla.sparse_decode(q, kv_cache, indices, topk_length=lengths, attn_sink=sink)
    for one, other in zip(found, wanted, strict=True):
        assert isinstance(one, jax.Array)
        np.testing.assert_array_equal(np.asarray(one), other)
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^out is read-only and would be written"):
        flashmla.sparse_decode(q, kv_cache, indices, out=found[0])


def test_packed_queries(framework):
    q, indices = Q.reshape(4, 4, 576), INDICES.reshape(4, 9)
    tensors = {"kv_cache": KV_CACHE, "topk_length": LENGTHS, "cu_seqlens_q": OFFSETS, "q": q, "indices": indices}
    if framework == "torch":
        tensors = {name: torch_of(x) for name, x in tensors.items()}
    for _ in range(2):
        out, lse = flashmla.sparse_decode(**tensors, max_seqlen_q=3)
        assert (tuple(out.shape), tuple(lse.shape)) == ((4, 4, 512), (4, 4))
        for token in range(4):
            wanted = attended(q[token], KV_CACHE, indices[token, : LENGTHS[token // 3]])
            np.testing.assert_allclose(np.asarray(out)[token], wanted[0], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(np.asarray(lse)[:, token], wanted[1], atol=1e-5)


@pytest.mark.parametrize("kv_format", ["v32", "v32_nope", "model1", "v41"])
def test_bytes_of_a_cache(kv_format, framework):
    """Those of PyTorch and NumPy, of all their types, beside queries in bfloat16."""
    columns = 576 if kv_format == "v32" else 512
    pages = flashmla.quantize_kv(KV_CACHE[..., 0, :columns].reshape(24, -1), kv_format=kv_format, page_size=8)
    rows = flashmla.dequantize_kv(pages, kv_format=kv_format, out_dtype="float32")
    q = Q[..., :columns].astype(DTYPES["bfloat16"])
    given, caches = (q, INDICES), [pages, pages.view(np.int8), pages.view(DTYPES["float8_e4m3fn"])]
    if framework == "torch":
        torch = pytest.importorskip("torch")
        given = [*map(torch_of, given)]
        caches = [torch_of(pages).view(dtype) for dtype in (torch.uint8, torch.int8, torch.float8_e4m3fn)]
    for cache in caches:
        options = {"kv_format": kv_format, "out_dtype": "float32"}
        out, _ = flashmla.sparse_decode(given[0], cache, given[1], **options)
        wanted, _ = attended(q[1, 0].astype(np.float32), rows, INDICES[1, 0])
        np.testing.assert_allclose(np.asarray(out)[1, 0], wanted, rtol=2e-2, atol=1e-2)
        both = flashmla.sparse_decode(
            given[0], cache, given[1], extra_kv_cache=cache, extra_indices=given[1], **options
        )
        # Every token is there twice, in the format of kv_cache unless another one is named.
        np.testing.assert_allclose(np.asarray(both[0]), np.asarray(out), rtol=1e-2, atol=1e-2)


def test_outputs_and_scratch_may_be_given(framework):
    arguments = [Q, KV_CACHE, INDICES]
    out, lse = np.zeros((2, 2, 4, 512), np.float32), np.zeros((2, 4, 2), np.float32)
    workspace = np.zeros(flashmla.sparse_decode_workspace_size(*arguments), np.uint8)
    if framework == "torch":
        arguments, (out, lse, workspace) = [*map(torch_of, arguments)], map(torch_of, (out, lse, workspace))
    for _ in range(2):
        found = flashmla.sparse_decode(*arguments, out=out, lse=lse, workspace=workspace)
        assert found[0] is out
        assert found[1] is lse
        assert flashmla.sparse_decode(*arguments, out=out, return_lse=False) is out
    wanted = flashmla.sparse_decode(Q, KV_CACHE, INDICES)
    np.testing.assert_array_equal(np.asarray(out), wanted[0])
    np.testing.assert_array_equal(np.asarray(lse), wanted[1])


@pytest.mark.parametrize("full", [False, True], ids=["required", "all"])
def test_a_prepared_call(framework, full):
    arguments, options = [Q, KV_CACHE, INDICES], dict(ALL) if full else {}
    if framework == "torch":
        arguments, options = [*map(torch_of, arguments)], {name: torch_of(x) for name, x in options.items()}
    prepared = flashmla.prepare(flashmla.sparse_decode, *arguments, **options)
    wanted = flashmla.sparse_decode(*arguments, **options)
    found = prepared()
    assert found is prepared()
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    others = {"q": arguments[0] + 1, "indices": (arguments[2] + 1) % 24}
    more = {"attn_sink": options["attn_sink"] - 1, "topk_length": options["topk_length"] - 1} if full else {}
    changed = dict(zip(("q", "kv_cache", "indices"), arguments, strict=True)) | options | others | more
    wanted = flashmla.sparse_decode(**changed)
    found = prepared(**others, **more)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^q: "):
        prepared(q=arguments[0][:1])
    if not full:
        with pytest.raises(flashmla.InvalidArgumentError, match=r"^attn_sink is given, was None when the call"):
            prepared(attn_sink=SINK)


def test_the_fast_way_is_taken(only_fast):
    torch = pytest.importorskip("torch")
    arguments = [*map(torch_of, (Q, KV_CACHE, INDICES))]
    options = {name: torch_of(x) for name, x in ALL.items()}
    pages = torch_of(flashmla.quantize_kv(KV_CACHE.reshape(24, 576), kv_format="v32", page_size=8))
    calls = [
        functools.partial(flashmla.sparse_decode, *arguments),
        functools.partial(flashmla.sparse_decode, *arguments, return_lse=False),
        functools.partial(flashmla.sparse_decode, *arguments, **options, out_dtype=torch.float32),
        functools.partial(flashmla.sparse_decode, arguments[0].bfloat16(), pages, arguments[2], kv_format="v32"),
    ]
    for call in calls:
        first = call()
        with only_fast():
            again = call()
        pairs = zip(first, again, strict=True) if isinstance(first, tuple) else [(first, again)]
        assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("prepare", [False, True])
def test_what_is_refused(prepare):
    def call(*arguments, **options):
        if prepare:
            return flashmla.prepare(flashmla.sparse_decode, *arguments, **options)
        return flashmla.sparse_decode(*arguments, **options)

    invalid = functools.partial(pytest.raises, flashmla.InvalidArgumentError)
    usual = (Q, KV_CACHE, INDICES)
    extra = {"extra_kv_cache": EXTRA_CACHE, "extra_indices": EXTRA_INDICES}
    with invalid(
        match=r"^kv_format is 'fp4'; it must be one of \['bf16', 'v32', 'v32_nope', 'model1', 'v41', 'fp8'\]$"
    ):
        call(*usual, kv_format="fp4")
    with invalid(match=r"^extra_kv_format is 3; it must be one of \["):
        call(*usual, **extra, extra_kv_format=3)
    with invalid(match=r"^extra_kv_format is \"[a-z0-9_]+\"; without extra_kv_cache it must be None$"):
        call(*usual, extra_kv_format="v32")
    with invalid(match=r"^extra_indices is None; with extra_kv_cache it is required$"):
        call(*usual, extra_kv_cache=EXTRA_CACHE)
    with invalid(match=r"^extra_kv_cache is None; with extra_indices it is required$"):
        call(*usual, extra_indices=EXTRA_INDICES)
    with invalid(match=r"^extra_topk_length is given; without extra_kv_cache it must be left out$"):
        call(*usual, extra_topk_length=LENGTHS)
    with invalid(match=r"^indices\.dtype is float32"):
        call(Q, KV_CACHE, INDICES.astype(np.float32))
    with invalid(match=r"^indices\.shape\[1\] is 1, q\.shape\[1\] \(s_q\) is 2"):
        call(Q, KV_CACHE, INDICES[:, :1])
    with invalid(match=r"^indices\.strides\[2\] is 2; the innermost stride must be 1"):
        call(Q, KV_CACHE, np.repeat(INDICES, 2, axis=2)[..., ::2])
    with invalid(match=r"^max_seqlen_q is 2; without cu_seqlens_q it must be 0"):
        call(*usual, max_seqlen_q=2)
    with invalid(match=r"^q\.dtype is float32; with kv_cache in format \"v32\" it must be bfloat16$"):
        call(Q, np.zeros((3, 8, 1, 656), np.uint8), INDICES, kv_format="v32")
    with invalid(match=r"^q\.ndim is 3; it must be 4 \(batch, s_q, h_q, d_qk\), or 3 with cu_seqlens_q$"):
        call(Q[0], *usual[1:])
    with invalid(match=r"^indices\.ndim is 3; with cu_seqlens_q it must be 2 \(total_q, topk\)$"):
        call(Q[0], *usual[1:], cu_seqlens_q=OFFSETS, max_seqlen_q=3)
    with invalid(match=r"^softmax_scale is 0"):
        call(*usual, softmax_scale=0)
    with invalid(match=r"^softmax_scale is 1e-300; it must fit a float of 32 bits$"):
        call(*usual, softmax_scale=1e-300)
    with pytest.raises(flashmla.UnsupportedError, match=r"^q\.shape\[2\] \(h_q\) is 129; supported are at most 128$"):
        call(np.zeros((2, 2, 129, 576), np.float32), KV_CACHE, INDICES)
    with pytest.raises(TypeError, match=r"^topk_length is a list: a tensor that supports DLPack is needed$"):
        call(*usual, topk_length=[9, 4])
    with pytest.raises(TypeError, match=r"^indices is a NoneType: a tensor that supports DLPack is needed$"):
        call(Q, KV_CACHE, None)
    with pytest.raises(TypeError, match=r"^attn_sink is a MaskedArray, whose mask does not count here"):
        call(*usual, attn_sink=np.ma.masked_array(SINK))
    with pytest.raises(TypeError, match=r"^batch_invariant is 'no', a str: True or False is needed$"):
        call(*usual, batch_invariant="no")
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'causal'"):
        call(*usual, causal=True)
    with invalid(match=r"^workspace has 0 bytes; it must have at least [0-9]+$"):
        call(*usual, workspace=np.zeros(0, np.uint8))


def test_gradients_and_traces_are_refused_as_everywhere():
    torch = pytest.importorskip("torch")
    arguments = [*map(torch_of, (Q, KV_CACHE, INDICES))]
    needs = arguments[0].clone().requires_grad_()
    with pytest.raises(flashmla.UnsupportedError, match=r"^q requires a gradient"):
        flashmla.sparse_decode(needs, *arguments[1:])
    with torch.no_grad():
        out, _ = flashmla.sparse_decode(needs, *arguments[1:])
    assert torch.equal(out, flashmla.sparse_decode(*arguments)[0])

    def twice(q):
        return flashmla.sparse_decode(q * 1, *arguments[1:])[0] * 2

    compiled = torch.compile(twice, backend="eager")
    assert torch.equal(compiled(arguments[0]), out * 2)


def test_a_custom_operation_of_ones_own_is_traced():
    torch = pytest.importorskip("torch")

    schema = "(Tensor q, Tensor kv_cache, Tensor indices) -> Tensor"
    call = functools.partial(flashmla.sparse_decode, return_lse=False)
    sparse = torch.library.custom_op("flashmla_tests::sparse", call, mutates_args=(), schema=schema)
    sparse.register_fake(lambda q, *_: q.new_empty(*q.shape[:-1], 512))

    arguments = [*map(torch_of, (Q, KV_CACHE, INDICES))]
    wanted = flashmla.sparse_decode(*arguments, return_lse=False) * 2
    traced = torch.compile(lambda *given: sparse(*given) * 2, backend="aot_eager", fullgraph=True, dynamic=True)
    assert torch.equal(traced(*arguments), wanted)
