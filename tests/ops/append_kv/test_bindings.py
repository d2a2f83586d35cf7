"""Writers and readers of the KV cache in Python: tensors of every framework, and what is refused."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import flashmla
from buffers import DTYPES

FORMATS = ("v32", "v32_nope", "model1", "v41")
BYTES = {"v32": 656, "v32_nope": 528, "model1": 584, "v41": 528}
COLUMNS = {"v32": 576, "v32_nope": 512, "model1": 512, "v41": 512}


def tokens(count=5, columns=576, dtype="float32"):
    return np.random.default_rng(3).standard_normal((count, columns)).astype(DTYPES[dtype])


def cache(kv_format="v32", pages=3, page_size=4):
    return np.zeros((pages, page_size, 1, BYTES[kv_format]), np.uint8)


def torch_of(array):
    torch = pytest.importorskip("torch")
    if array.dtype == DTYPES["bfloat16"]:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


SLOTS = np.array([3, 11, -1, 0, 7])


@pytest.mark.parametrize("kv_format", FORMATS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_frameworks_write_the_same(kv_format, dtype, framework):
    rows = tokens(columns=COLUMNS[kv_format], dtype=dtype)
    wanted = cache(kv_format)
    assert flashmla.append_kv(wanted, rows, None, SLOTS, kv_format=kv_format) is wanted
    assert wanted.any()
    parts, slots, found = (rows[:, :-64], rows[:, -64:]), SLOTS, cache(kv_format)
    if framework == "torch":
        (*parts, slots, found) = (torch_of(x) for x in (*parts, slots, found))
    for _ in range(2):
        assert flashmla.append_kv(found, parts[0], parts[1], slots, kv_format=kv_format) is found
        np.testing.assert_array_equal(np.asarray(found), wanted)


@pytest.mark.parametrize("kv_format", ["bf16", *FORMATS])
def test_a_cache_is_written_and_gathered(kv_format, framework):
    """What append_kv writes gather_kv and dequantize_kv read."""
    columns = COLUMNS.get(kv_format, 576)
    rows = tokens(6, columns)
    pages = np.zeros((3, 4, 1, columns), np.float32) if kv_format == "bf16" else cache(kv_format)
    table, offsets = np.array([[2, 0]], np.int32), np.array([0, 6], np.int32)
    slots = np.array([8, 9, 10, 11, 0, 1], np.int32)  # pages 2 and 0
    if framework == "torch":
        rows, pages, table, offsets, slots = (torch_of(x) for x in (rows, pages, table, offsets, slots))
    flashmla.append_kv(pages, rows, None, slots, kv_format=kv_format)
    found = flashmla.gather_kv(pages, table, offsets, 6, kv_format=kv_format, out_dtype="float32")
    assert type(found) is type(pages)
    np.testing.assert_allclose(np.asarray(found), np.asarray(rows), rtol=1 / 15, atol=2.0**-15)
    later = flashmla.gather_kv(
        *(pages, table, offsets // 2, 3), kv_format=kv_format, seq_starts=offsets[:1] + 3, out_dtype="float32"
    )
    np.testing.assert_array_equal(np.asarray(later), np.asarray(found)[3:])
    every = flashmla.dequantize_kv(pages, kv_format=kv_format, out_dtype="float32")
    np.testing.assert_array_equal(np.asarray(every)[[8, 9, 10, 11, 0, 1]], np.asarray(found))


def test_rows_that_are_made_are_bfloat16():
    pytest.importorskip("torch")
    pages = torch_of(cache())
    table, offsets = (torch_of(np.array(x, np.int32)) for x in ([[0]], [0, 3]))
    assert str(flashmla.dequantize_kv(pages, kv_format="v32").dtype) == "torch.bfloat16"
    assert str(flashmla.gather_kv(pages, table, offsets, 3, kv_format="v32").dtype) == "torch.bfloat16"
    halves = torch_of(np.zeros((3, 4, 1, 576), np.float16))
    assert str(flashmla.gather_kv(halves, table, offsets, 3).dtype) == "torch.float16"
    assert str(flashmla.dequantize_kv(halves, kv_format="bf16").dtype) == "torch.float16"


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float8_e4m3fn"])
def test_names_of_bytes(dtype):
    torch = pytest.importorskip("torch")
    wanted = cache()
    flashmla.append_kv(wanted, tokens(), None, SLOTS, kv_format="v32")
    of_numpy = cache().view(DTYPES[dtype])
    flashmla.append_kv(of_numpy, tokens(), None, SLOTS, kv_format="v32")
    of_torch = torch.zeros(wanted.shape, dtype=torch.uint8).view(getattr(torch, dtype))
    flashmla.append_kv(of_torch, torch_of(tokens()), None, torch_of(SLOTS), kv_format="v32")
    np.testing.assert_array_equal(of_numpy.view(np.uint8), wanted)
    np.testing.assert_array_equal(of_torch.view(torch.uint8).numpy(), wanted)


def test_jax_arrays_are_read_but_not_written():
    jax = pytest.importorskip("jax")
    rows, slots = jax.numpy.asarray(tokens()), jax.numpy.asarray(SLOTS.astype(np.int32))
    wanted, found = cache(), cache()
    flashmla.append_kv(wanted, tokens(), None, SLOTS, kv_format="v32")
    flashmla.append_kv(found, rows, None, slots, kv_format="v32")
    np.testing.assert_array_equal(found, wanted)
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^kv_cache is read-only and would be written"):
        flashmla.append_kv(jax.numpy.asarray(cache()), rows, None, slots, kv_format="v32")
    pages = flashmla.quantize_kv(rows, kv_format="v32")
    assert type(pages) is type(rows)
    back = flashmla.dequantize_kv(pages, kv_format="v32")
    assert (type(back), back.dtype.name, back.shape) == (type(rows), "bfloat16", (5, 576))
    table, offsets = jax.numpy.asarray([[0]], dtype="int32"), jax.numpy.asarray([0, 5], dtype="int32")
    np.testing.assert_array_equal(flashmla.gather_kv(pages, table, offsets, 5, kv_format="v32"), back)


def test_a_prepared_call(framework):
    rows, slots, found = tokens(), SLOTS, cache()
    if framework == "torch":
        rows, slots, found = (torch_of(x) for x in (rows, slots, found))
    prepared = flashmla.prepare(flashmla.append_kv, found, rows, None, slots, kv_format="v32")
    assert not np.asarray(found).any()
    assert prepared() is found
    wanted = cache()
    flashmla.append_kv(wanted, tokens() + 1, None, SLOTS, kv_format="v32")
    prepared(latent=rows + 1)
    np.testing.assert_array_equal(np.asarray(found), wanted)
    back = flashmla.prepare(flashmla.dequantize_kv, found, kv_format="v32", out_dtype="float32")
    np.testing.assert_array_equal(
        np.asarray(back()), np.asarray(flashmla.dequantize_kv(found, kv_format="v32", out_dtype="float32"))
    )


def test_the_fast_way_is_taken(only_fast):
    torch = pytest.importorskip("torch")
    rows, slots, pages = (torch_of(x) for x in (tokens(), SLOTS, cache()))
    table, offsets = (torch_of(np.array(x, np.int32)) for x in ([[0]], [0, 3]))
    calls = [
        functools.partial(flashmla.append_kv, pages, rows, None, slots, kv_format="v32"),
        functools.partial(flashmla.append_kv, pages, rows[:, :512], rows[:, 512:], slots, kv_format="v32"),
        functools.partial(flashmla.quantize_kv, rows, kv_format="v32"),
        functools.partial(flashmla.dequantize_kv, pages, kv_format="v32"),
        functools.partial(flashmla.gather_kv, pages, table, offsets, 3, kv_format="v32"),
    ]
    for call in calls:
        first = call()
        with only_fast():
            assert torch.equal(call().view(torch.uint8), first.view(torch.uint8))


@pytest.mark.parametrize("prepare", [False, True])
def test_what_is_refused(prepare):
    def call(operation, *arguments, **options):
        if prepare:
            return flashmla.prepare(operation, *arguments, **options)
        return operation(*arguments, **options)

    invalid = functools.partial(pytest.raises, flashmla.InvalidArgumentError)
    for wrong in ("fp4", None, ["v32"], 1):
        with invalid(
            match=r"^kv_format is .*; it must be one of \['bf16', 'v32', 'v32_nope', 'model1', 'v41', 'fp8'\]$"
        ):
            call(flashmla.append_kv, cache(), tokens(), None, SLOTS, kv_format=wrong)
    with invalid(match=r"^kv_cache is None; the tensor is required$"):
        call(flashmla.append_kv, None, tokens(), None, SLOTS, kv_format="v32")
    with invalid(match=r'^unrounded_scales is True; format "model1" has powers of two for scales$'):
        call(flashmla.quantize_kv, tokens(columns=512), kv_format="model1", unrounded_scales=True)
    with invalid(match=r"^kv_format is 'bf16', which does not quantise$"):
        call(flashmla.quantize_kv, tokens(), kv_format="bf16")
    with invalid(match=r"^num_tokens is None and out is None; one of them tells how many rows$"):
        call(flashmla.gather_kv, cache(), np.zeros((1, 1), "int32"), np.zeros(2, "int32"), kv_format="v32")
    with invalid(match=r"^num_tokens is -1; it must be in \[0, 2\^31\)$"):
        call(flashmla.gather_kv, cache(), np.zeros((1, 1), "int32"), np.zeros(2, "int32"), -1, kv_format="v32")
    with invalid(match=r"^page_size is -1; it must be in \[0, 2\^31\)$"):
        call(flashmla.quantize_kv, tokens(), kv_format="v32", page_size=-1)
    frozen = cache()
    frozen.flags.writeable = False
    with invalid(match=r"^kv_cache is read-only and would be written$"):
        call(flashmla.append_kv, frozen, tokens(), None, SLOTS, kv_format="v32")
    with pytest.raises(TypeError, match=r"^latent is an int: a tensor that supports DLPack is needed$"):
        call(flashmla.append_kv, cache(), 1, None, SLOTS, kv_format="v32")
    with pytest.raises(TypeError, match=r"^unrounded_scales is 'no', a str: True or False is needed$"):
        call(flashmla.append_kv, cache(), tokens(), None, SLOTS, kv_format="v32", unrounded_scales="no")
