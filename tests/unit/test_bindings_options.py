"""Options of `dense_decode` and `plan_decode`: query offsets, geometries, dtypes of out, forms of lse, shards."""

import math

import ml_dtypes  # noqa: F401 - NumPy knows "bfloat16" by its name then
import numpy as np
import pytest

import compare
import flashmla
import small
from ops.dense_decode import oracle


def same(found, want, dtype="float32"):
    """(out, lse) are those of the oracle."""
    tolerance = compare.tolerance("dense_decode", dtype)
    assert found[0].shape == want[0].shape
    assert found[1].shape == want[1].shape
    assert compare.relative_error(found[0].astype(np.float64), want[0]) <= tolerance.norm
    np.testing.assert_allclose(found[1], want[1], rtol=tolerance.lse_relative, atol=tolerance.lse_absolute)


def packed(counts=(1, 3), **options):
    """Inputs of variable-length queries: (tensors, cu_seqlens_q)."""
    _, *rest = small.inputs(lengths=(5, 100), **options)
    q = np.random.default_rng(3).standard_normal((sum(counts), 4, 576)).astype(np.float32)
    return (q, *rest), np.cumsum([0, *counts]).astype(np.int32)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("planned", [False, True])
def test_variable_length_queries(causal, planned):
    tensors, offsets = packed()
    options = {"causal": causal, "cu_seqlens_q": offsets, "max_seqlen_q": 3}
    plan = flashmla.plan_decode(*tensors, **options) if planned else None
    found = flashmla.dense_decode(*tensors, plan=plan, **options)
    same(found, oracle.dense_decode(*tensors, **options))
    size = flashmla.dense_decode_workspace_size(*tensors, plan=plan, **options)
    workspace = np.zeros(size, np.uint8)
    again = flashmla.dense_decode(*tensors, plan=plan, workspace=workspace, out=found[0], lse=found[1], **options)
    same(again, oracle.dense_decode(*tensors, **options))
    assert flashmla.plan_decode_size(*tensors, **options) > 0


def test_query_offsets_and_their_maximum_go_together():
    tensors, offsets = packed()
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^max_seqlen_q is 0; with cu_seqlens_q it must be > 0"):
        flashmla.dense_decode(*tensors, cu_seqlens_q=offsets)
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^max_seqlen_q is 2; without cu_seqlens_q it must be 0"):
        flashmla.plan_decode(*small.inputs(), max_seqlen_q=2)
    with pytest.raises(flashmla.InvalidArgumentError, match="cu_seqlens_q"):
        flashmla.dense_decode(*tensors, cu_seqlens_q=offsets[:-1], max_seqlen_q=3)
    with pytest.raises(TypeError, match=r"^cu_seqlens_q is a list"):
        flashmla.dense_decode(*tensors, cu_seqlens_q=[0, 1, 4], max_seqlen_q=3)
    with pytest.raises(TypeError, match=r"^max_seqlen_q is 3\.0, a float"):
        flashmla.dense_decode(*tensors, cu_seqlens_q=offsets, max_seqlen_q=3.0)


@pytest.mark.parametrize(("d_qk", "d_v"), [(576, 512), (512, 512), (320, 256)])
def test_outputs_have_the_geometry_of_q(d_qk, d_v):
    q, kv_cache, block_table, cache_seqlens = small.inputs()
    tensors = (q[..., :d_qk].copy(), kv_cache[..., :d_qk].copy(), block_table, cache_seqlens)
    out, lse = flashmla.dense_decode(*tensors)
    assert out.shape == (2, 2, 4, d_v)
    same((out, lse), oracle.dense_decode(*tensors))


@pytest.mark.parametrize("d_qk", [0, 64, 640])
def test_another_geometry_is_refused_by_c(d_qk):
    q, kv_cache, block_table, cache_seqlens = small.inputs()
    wrong = np.zeros((*q.shape[:-1], d_qk), np.float32), np.zeros((*kv_cache.shape[:-1], d_qk), np.float32)
    with pytest.raises(flashmla.FlashMLAError, match=r"^q\.shape\[3\]") as caught:
        flashmla.dense_decode(*wrong, block_table, cache_seqlens)
    assert caught.value.status_name == ("FLASHMLA_ERROR_UNSUPPORTED" if d_qk else "FLASHMLA_ERROR_ZERO_EXTENT")


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float8_e4m3fn"])
def test_bytes_without_a_format_are_told_to_want_one(dtype):
    q, kv_cache, block_table, cache_seqlens = small.inputs("bfloat16")
    codes, indices = np.zeros((2, 64, 1, 656), dtype), np.zeros((2, 2, 5), np.int32)
    pool = {"max_seqs": 1, "max_seq_len": 64}
    calls = {
        "kv_cache": lambda: flashmla.dense_decode(q, codes, block_table, cache_seqlens),
        "kv_cache of a plan": lambda: flashmla.plan_decode(q, codes, block_table, cache_seqlens),
        "kv_cache of sparse_decode": lambda: flashmla.sparse_decode(q, codes, indices),
        "extra_kv_cache": lambda: flashmla.sparse_decode(
            q, kv_cache, indices, extra_kv_cache=codes, extra_indices=indices
        ),
        r"kv_cache\[0\] of a pool": lambda: flashmla.PagedKVCache([codes], **pool),
    }
    for name, call in calls.items():
        cache, field = name.split()[0], "extra_kv_format" if name.startswith("extra") else "kv_format"
        sentence = rf"^{cache}\.dtype is {dtype}[,;] .*, or {field} must name the format of the bytes$"
        with pytest.raises(flashmla.InvalidArgumentError, match=sentence):
            call()


@pytest.mark.parametrize("dtype", small.DTYPES)
@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_float32_out_on_request(dtype, framework):
    arrays = small.inputs(dtype)
    tensors = arrays
    if framework == "torch":
        torch = pytest.importorskip("torch")
        tensors = [torch.from_numpy(array.astype(np.float32)).to(getattr(torch, dtype)) for array in arrays[:2]]
        tensors += [torch.from_numpy(array) for array in arrays[2:]]
    elif framework == "jax":
        tensors = [pytest.importorskip("jax.numpy").asarray(array) for array in arrays]
    out, lse = flashmla.dense_decode(*tensors, out_dtype="float32")
    assert type(out) is type(tensors[0])
    assert str(out.dtype).removeprefix("torch.") == "float32"
    # The inputs are rounded, the sums are not: P is rounded to their dtype.
    same((np.asarray(out), np.asarray(lse)), oracle.dense_decode(*arrays), dtype)


def names_of_float32(framework):
    yield from ("float32", np.float32, np.dtype("float32"), np.dtype(np.float32))
    if framework == "torch":
        torch = pytest.importorskip("torch")
        yield from (torch.float32, torch.float)
    if framework == "jax":
        jnp = pytest.importorskip("jax.numpy")
        yield from (jnp.float32, jnp.dtype("float32"), jnp.zeros(1).dtype)


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_out_dtypes_of_frameworks(framework):
    arrays = small.inputs("float16")
    convert = {"numpy": np.asarray, "torch": lambda x: pytest.importorskip("torch").from_numpy(x)}.get(framework)
    tensors = [*map(convert or (lambda x: pytest.importorskip("jax.numpy").asarray(x)), arrays)]
    for dtype in names_of_float32(framework):
        out, _ = flashmla.dense_decode(*tensors, out_dtype=dtype)
        assert str(out.dtype).removeprefix("torch.") == "float32"
        if framework != "jax":
            out, _ = flashmla.prepare(flashmla.dense_decode, *tensors, out_dtype=dtype)()
            assert str(out.dtype).removeprefix("torch.") == "float32"
    for wrong in (np.float64, np.dtype("int32"), float, 32, [], np.zeros(2)):
        with pytest.raises(flashmla.InvalidArgumentError, match=r"(?s)^out_dtype is .*; it must be None or one of"):
            flashmla.dense_decode(*tensors, out_dtype=wrong)


def test_a_dtype_of_a_framework_takes_the_fast_way_too(only_fast):
    torch = pytest.importorskip("torch")
    tensors = [torch.from_numpy(array) for array in small.inputs()]
    for dtype in (torch.float32, "float32"):
        flashmla.dense_decode(*tensors, out_dtype=dtype)
        with only_fast():
            flashmla.dense_decode(*tensors, out_dtype=dtype)


def test_out_dtypes():
    arrays = small.inputs("bfloat16")
    assert flashmla.dense_decode(*arrays, out_dtype="bfloat16")[0].dtype.name == "bfloat16"
    with pytest.raises(flashmla.InvalidArgumentError, match=r"out\.dtype"):
        flashmla.dense_decode(*arrays, out_dtype="float16")
    with pytest.raises(
        flashmla.InvalidArgumentError, match=r"^out_dtype is 'double'; it must be None or one of"
    ) as caught:
        flashmla.dense_decode(*arrays, out_dtype="double")
    assert caught.value.status_name == "FLASHMLA_ERROR_DTYPE"
    out = np.zeros((2, 2, 4, 512), np.float32)
    assert flashmla.dense_decode(*arrays, out=out)[0] is out
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^out_dtype is 'float32', but out is given"):
        flashmla.dense_decode(*arrays, out=out, out_dtype="float32")


@pytest.mark.parametrize("empty_lse", [math.inf, -math.inf])
@pytest.mark.parametrize("lse_base2", [False, True])
def test_forms_of_lse(lse_base2, empty_lse):
    arrays = small.inputs(lengths=(0, 100))
    options = {"lse_base2": lse_base2, "empty_lse": empty_lse}
    found = flashmla.dense_decode(*arrays, **options)
    same(found, oracle.dense_decode(*arrays, **options))
    assert (found[1][0] == empty_lse).all()


def test_a_result_without_lse(framework):
    torch = pytest.importorskip("torch") if framework == "torch" else None
    arrays = [torch.from_numpy(x) if torch else x for x in small.inputs()]
    out, lse = flashmla.dense_decode(*arrays)
    given = {"out": out * 0, "lse": lse * 0}
    prepared = flashmla.prepare(flashmla.dense_decode, *arrays, return_lse=False)
    for _ in range(2):  # before and after the fast way knows how to make outputs
        for alone in (flashmla.dense_decode(*arrays, return_lse=False), prepared()):
            assert type(alone) is type(out)
            np.testing.assert_array_equal(alone, out)
    assert flashmla.dense_decode(*arrays, out=given["out"], return_lse=False) is given["out"]
    np.testing.assert_array_equal(given["out"], out)
    assert flashmla.dense_decode(*arrays, **given, return_lse=False) is given["out"]
    np.testing.assert_array_equal(given["lse"], lse)  # given, so it was written
    assert prepared(out=given["out"]) is given["out"]
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^lse is given, was None when the call was prepared"):
        prepared(lse=given["lse"])
    written = flashmla.prepare(flashmla.dense_decode, *arrays, lse=given["lse"] * 0, return_lse=False)
    np.testing.assert_array_equal(written(lse=given["lse"]), out)
    with pytest.raises(TypeError, match=r"^return_lse is 'no', a str: True or False is needed$"):
        flashmla.dense_decode(*arrays, return_lse="no")


def test_attention_sinks(framework):
    torch = pytest.importorskip("torch") if framework == "torch" else None
    arrays, sink = small.inputs(lengths=(0, 100)), np.array([-1, 3, math.inf, -math.inf], np.float32)
    given = [torch.from_numpy(x) if torch else x for x in (*arrays, sink)]
    prepared = flashmla.prepare(flashmla.dense_decode, *given[:4], attn_sink=given[4])
    for _ in range(2):  # before and after the fast way knows how to make outputs
        for found in (flashmla.dense_decode(*given[:4], attn_sink=given[4]), prepared()):
            same([np.asarray(x) for x in found], oracle.dense_decode(*arrays, sink=sink))
    other = prepared(attn_sink=given[4] - 1)
    same([np.asarray(x) for x in other], oracle.dense_decode(*arrays, sink=sink - 1))


@pytest.mark.parametrize("empty_lse", [0.0, math.nan, 1])
def test_an_empty_row_has_an_infinite_lse(empty_lse):
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^empty_lse is .*; it must be inf or -inf") as caught:
        flashmla.dense_decode(*small.inputs(), empty_lse=empty_lse)
    assert caught.value.status_name == "FLASHMLA_ERROR_VALUE"


def test_scalars_of_shards_and_flags_are_named():
    for name in ("cp_rank", "cp_world", "cp_interleave"):
        with pytest.raises(TypeError, match=rf"^{name} is 1\.5, a float: an integer is needed"):
            flashmla.dense_decode(*small.inputs(), **{name: 1.5})
    for name in ("lse_base2", "batch_invariant"):
        with pytest.raises(TypeError, match=f"^{name} is 'no', a str: True or False is needed"):
            flashmla.dense_decode(*small.inputs(), **{name: "no"})
    with pytest.raises(TypeError, match=r"^empty_lse is 'inf', a str: a number is needed"):
        flashmla.dense_decode(*small.inputs(), empty_lse="inf")


def test_a_scale_that_no_float_holds_is_told_as_it_was_given():
    for scale, told in ((1e300, "1e[+]300"), (-1e300, "-1e[+]300"), (1e-300, "1e-300")):
        with pytest.raises(
            flashmla.InvalidArgumentError, match=rf"^softmax_scale is {told}; it must fit a float of 32 b"
        ):
            flashmla.dense_decode(*small.inputs(), softmax_scale=scale)
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^softmax_scale is beyond 1\.8e308; it must fit a float$"):
        flashmla.dense_decode(*small.inputs(), softmax_scale=10**5000)
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^softmax_scale is inf; it must be finite"):
        flashmla.dense_decode(*small.inputs(), softmax_scale=math.inf)


def test_a_batch_invariant_call_and_plan():
    arrays = small.inputs()
    plan = flashmla.plan_decode(*arrays, batch_invariant=True)
    size = flashmla.dense_decode_workspace_size(*arrays, batch_invariant=True)
    assert size == flashmla.dense_decode_workspace_size(
        *arrays, plan=plan, batch_invariant=True
    ) + flashmla.plan_decode_size(*arrays, batch_invariant=True)
    with_plan = flashmla.dense_decode(*arrays, plan=plan, batch_invariant=True)
    without = flashmla.dense_decode(*arrays, batch_invariant=True)
    alone = flashmla.dense_decode(arrays[0][1:], arrays[1], arrays[2][1:], arrays[3][1:], batch_invariant=True)
    for left, right, one in zip(with_plan, without, alone, strict=True):
        np.testing.assert_array_equal(left, right)
        np.testing.assert_array_equal(left[1:], one)
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^num_splits is 2; with batch_invariant it must be 0"):
        flashmla.plan_decode(*arrays, batch_invariant=True, num_splits=2)


def test_rules_on_shards_are_those_of_c():
    arrays = small.inputs()
    for wrong, sentence in (
        ({"cp_world": 2, "cp_interleave": 1}, "^global_seqlens is None; with cp_world 2 it is required"),
        ({"cp_world": 2, "cp_interleave": 0, "global_seqlens": arrays[3]}, "^cp_interleave is 0"),
        ({"cp_rank": 2, "cp_world": 2, "cp_interleave": 1, "global_seqlens": arrays[3]}, "^cp_rank is 2"),
        ({"cp_rank": 1}, "^cp_rank is 1; with cp_world 0 it must be 0$"),
        ({"cp_interleave": 4}, "^cp_interleave is 4; with cp_world 0 it must be 0$"),
        ({"global_seqlens": arrays[3]}, "^global_seqlens is given; with cp_world 0 it must be left out$"),
    ):
        with pytest.raises(flashmla.InvalidArgumentError, match=sentence):
            flashmla.dense_decode(*arrays, **wrong)


def test_last_kernel():
    flashmla.dense_decode(*small.inputs())
    name = flashmla.last_kernel()
    assert name in {kernel["name"] for kernel in flashmla.info()["kernels"] if kernel["operation"] == "dense_decode"}


def without(asked):
    return "with" if asked else "without"


@pytest.mark.parametrize("invariant", [False, True])
def test_a_plan_and_its_calls_agree_on_invariance(invariant):
    arrays = small.inputs()
    plan = flashmla.plan_decode(*arrays, batch_invariant=invariant)
    other = {"batch_invariant": not invariant}
    prepared = flashmla.prepare(flashmla.dense_decode, *arrays, plan=flashmla.plan_decode(*arrays, **other), **other)
    for call in (
        lambda: flashmla.dense_decode(*arrays, plan=plan, **other),
        lambda: flashmla.dense_decode_workspace_size(*arrays, plan=plan, **other),
        lambda: flashmla.prepare(flashmla.dense_decode, *arrays, plan=plan, **other),
        lambda: prepared(plan=plan),
    ):
        with pytest.raises(flashmla.InvalidArgumentError) as refused:
            call()
        assert str(refused.value) == (
            f"plan was made {without(invariant)} batch_invariant, the call is {without(not invariant)} it"
        )
