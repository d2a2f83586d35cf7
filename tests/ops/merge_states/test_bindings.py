"""`merge_states`: stacked or listed parts of every framework, and what is refused."""

import functools
import math

import numpy as np
import pytest

import compare
import flashmla
from buffers import DTYPES
from ops.dense_decode.oracle import Shard
from ops.merge_states import oracle
from unit import small

SHAPE = (3, 2, 4)  # batch, s_q, h_q


def states(count=3, dtype="float32", d_v=64, leading=SHAPE):
    """(outs, lses) of `count` parts, stacked; the second part of token 0 and head 0 is empty."""
    draw = np.random.default_rng(11)
    outs = draw.standard_normal((count, *leading, d_v)).astype(DTYPES[dtype])
    lses = draw.standard_normal((count, *leading[:-2], leading[-1], leading[-2])).astype(np.float32)
    if count > 1:
        lses[1, ..., 0, 0] = -math.inf
        outs[1, ..., 0, 0, :] = math.nan
    return outs, lses


def check(found, parts, **options):
    want = oracle.merge_states(*parts, **options)
    tolerance = compare.tolerance("dense_decode", found[0].dtype.name)
    assert found[0].shape == want[0].shape
    assert found[1].shape == want[1].shape
    assert compare.relative_error(found[0].astype(np.float64), want[0]) <= tolerance.norm
    np.testing.assert_allclose(found[1], want[1], rtol=tolerance.lse_relative, atol=tolerance.lse_absolute)


@pytest.mark.parametrize("leading", [SHAPE, (5, 4)], ids=["batch", "variable-length"])
@pytest.mark.parametrize("kind", [list, tuple, None])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_stacked_or_in_a_sequence(dtype, kind, leading):
    outs, lses = states(dtype=dtype, leading=leading)
    given = (outs, lses) if kind is None else (kind(outs), kind(lses))
    out, lse = flashmla.merge_states(*given, stacked=kind is None)
    assert (out.dtype, lse.dtype) == (outs.dtype, np.float32)
    check((out, lse), (outs, lses))


@pytest.mark.parametrize("owner", ["torch", "jax"])
def test_parts_of_other_frameworks(owner):
    module = pytest.importorskip(owner)
    convert = module.from_numpy if owner == "torch" else module.numpy.asarray
    outs, lses = states()
    for given in ((convert(outs), convert(lses)), ([convert(x) for x in outs], [convert(x) for x in lses])):
        out, lse = flashmla.merge_states(*given)
        assert type(out) is type(lse) is type(convert(outs))
        check((np.asarray(out), np.asarray(lse)), (outs, lses))


@pytest.mark.parametrize("empty_lse", [math.inf, -math.inf])
@pytest.mark.parametrize("lse_base2", [False, True])
def test_forms_of_lse(lse_base2, empty_lse):
    outs, lses = states()
    lses[:, 2] = [[[-math.inf]], [[math.inf]], [[-math.inf]]]
    options = {"lse_base2": lse_base2, "empty_lse": empty_lse}
    out, lse = flashmla.merge_states(outs, lses, **options)
    check((out, lse), (outs, lses), **options)
    assert (lse[2] == empty_lse).all()
    assert (out[2] == 0).all()


def test_given_outputs_of_another_dtype_and_layout():
    outs, lses = states(dtype="bfloat16")
    out = np.zeros((*SHAPE, 128), np.float32)[..., 32:96]
    lse = np.zeros((2, 4, 3), np.float32).transpose(2, 1, 0)
    returned = flashmla.merge_states(outs, lses, out=out, lse=lse, num_threads=1)
    assert returned[0] is out
    assert returned[1] is lse
    check((out, lse), (outs, lses))
    for dtype in ("float32", np.float32, np.dtype("float32")):
        made, _ = flashmla.merge_states(outs, lses, out_dtype=dtype)
        np.testing.assert_array_equal(made, out)
    for wrong in (["float32"], {"float32"}, np.dtype("float64"), np.zeros(2), "float64", 32, float):
        with pytest.raises(flashmla.InvalidArgumentError, match=r"(?s)^out_dtype is .*; it must be None or one of \["):
            flashmla.merge_states(outs, lses, out_dtype=wrong)
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^out_dtype is 'float32', but out is given"):
        flashmla.merge_states(outs, lses, out=out, out_dtype="float32")


@pytest.mark.parametrize("owner", ["numpy", "torch", "jax", "an exporter"])
@pytest.mark.parametrize("prepare", [False, True])
def test_results_of_one_part_are_not_taken_for_a_stack(owner, prepare):
    """(batch, s_q, h_q, d_v) looks like parts (n, total_q, h_q, d_v): nobody meant to merge the batch."""
    out, lse = (x[0] for x in states())

    class Exporter:
        def __init__(self, array):
            self.__dlpack__, self.__dlpack_device__ = array.__dlpack__, array.__dlpack_device__

    convert = {"numpy": np.asarray, "an exporter": Exporter}.get(owner)
    if convert is None:
        module = pytest.importorskip(owner)
        convert = module.from_numpy if owner == "torch" else module.numpy.asarray
    given = {"outs": convert(out), "lses": convert(lse), "out": np.zeros((2, 4, 64), np.float32)}
    given["lse"] = np.zeros((4, 2), np.float32)
    call = functools.partial(flashmla.prepare, flashmla.merge_states) if prepare else flashmla.merge_states
    words = r"^outs\.ndim is 4: .* Results of several parts must be listed, .*; such a stack needs stacked=True$"
    with pytest.raises(flashmla.InvalidArgumentError, match=words) as caught:
        call(**given)
    assert caught.value.status_name == "FLASHMLA_ERROR_SHAPE"
    assert not given["out"].any()
    if not (prepare and owner == "jax"):
        found = call(**given, stacked=True)
        found = found() if prepare else found
        check(tuple(map(np.asarray, found)), (out, lse))


def test_stacked_goes_with_one_tensor():
    outs, lses = states()
    check(flashmla.merge_states(outs, lses, stacked=True), (outs, lses))
    with pytest.raises(TypeError, match=r"^stacked is True, but outs is a list: a tensor is needed$"):
        flashmla.merge_states([*outs], [*lses], stacked=True)
    with pytest.raises(TypeError, match=r"^stacked is 'yes', a str: True or False is needed$"):
        flashmla.merge_states(outs, lses, stacked="yes")


@pytest.mark.parametrize("listed", [False, True])
def test_a_result_without_lse(listed, framework):
    outs, lses = states()
    if framework == "torch":
        torch = pytest.importorskip("torch")
        outs, lses = torch.from_numpy(outs), torch.from_numpy(lses)
    parts = ([*outs], [*lses]) if listed else (outs, lses)
    wanted = flashmla.merge_states(*parts)
    prepared = flashmla.prepare(flashmla.merge_states, *parts, return_lse=False)
    for _ in range(2):
        for found in (flashmla.merge_states(*parts, return_lse=False), prepared()):
            assert type(found) is type(wanted[0])
            np.testing.assert_array_equal(found, wanted[0])


def test_one_part_is_itself():
    outs, lses = states(count=1)
    out, lse = flashmla.merge_states([outs[0]], [lses[0]])
    np.testing.assert_allclose(out, outs[0], rtol=1e-6)
    np.testing.assert_allclose(lse, lses[0], rtol=1e-6, atol=1e-6)


def test_parts_that_do_not_belong_together():
    outs, lses = states()
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^lses has 2 tensors, outs has 3") as caught:
        flashmla.merge_states([*outs], [*lses[:2]])
    assert caught.value.status_name == "FLASHMLA_ERROR_SHAPE"
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^outs is empty; at least one"):
        flashmla.merge_states([], [])
    rule = "both must be tensors, or both lists or tuples of tensors$"
    with pytest.raises(TypeError, match=f"^outs is an ndarray, lses is a list: {rule}"):
        flashmla.merge_states(outs, [*lses])
    with pytest.raises(TypeError, match=f"^outs is a tuple, lses is an ndarray: {rule}"):
        flashmla.merge_states((*outs,), lses)
    with pytest.raises(TypeError, match=f"^outs is a list, lses is a NoneType: {rule}"):
        flashmla.merge_states([*outs], None)
    with pytest.raises(flashmla.InvalidArgumentError, match=r"outs\[1\]\.shape"):
        flashmla.merge_states([outs[0], outs[1, :2]], [*lses[:2]])
    with pytest.raises(flashmla.InvalidArgumentError, match=r"lses\[2\]\.dtype"):
        flashmla.merge_states([*outs], [*lses[:2], lses[2].astype(np.float16)])
    with pytest.raises(TypeError, match=r"^outs\[0\] is an int"):
        flashmla.merge_states([1], [2])
    with pytest.raises(TypeError, match=r"^outs is a NoneType"):
        flashmla.merge_states(None, lses)


class Shrinks:
    """A tensor whose export takes all but the first out of a list, as another thread might."""

    def __init__(self, array, parts):
        self.array = array
        self.parts = parts

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, **options):
        del self.parts[1:]
        return self.array.__dlpack__(**options)


@pytest.mark.parametrize("name", ["outs", "lses"])
@pytest.mark.parametrize("prepare", [False, True])
def test_a_list_that_shrinks_while_it_is_read(name, prepare):
    parts = dict(zip(("outs", "lses"), map(list, states()), strict=True))
    parts["outs"][0] = Shrinks(parts["outs"][0], parts[name])
    call = functools.partial(flashmla.prepare, flashmla.merge_states) if prepare else flashmla.merge_states
    with pytest.raises(flashmla.InvalidArgumentError, match=rf"^{name} has 1 tensors, had 3 when the call") as caught:
        call(**parts)
    assert caught.value.status_name == "FLASHMLA_ERROR_SHAPE"


def test_a_list_of_a_prepared_call_that_shrinks_while_it_is_read():
    outs, lses = map(list, states())
    wanted = flashmla.merge_states(outs, lses)
    prepared = flashmla.prepare(flashmla.merge_states, [*outs[:2], outs[0]], lses)
    outs[0] = Shrinks(outs[0], outs)
    found = prepared(outs=outs)
    assert len(outs) == 1
    np.testing.assert_array_equal(found[0], wanted[0])


@pytest.mark.parametrize("rank", [0, 1, 2, 3, 6])
def test_a_wrong_rank_is_refused_by_c(rank):
    _, lses = states()
    with pytest.raises(flashmla.InvalidArgumentError, match="out"):
        flashmla.merge_states(np.zeros((1,) * rank, np.float32), lses)
    if rank not in {3, 4}:
        with pytest.raises(flashmla.InvalidArgumentError, match="out"):
            flashmla.merge_states([np.zeros((1,) * rank, np.float32)], [lses[0]])


@pytest.mark.parametrize("argument", ["out", "lse"])
def test_read_only_outputs_are_refused(argument):
    outs, lses = states()
    frozen = {"out": np.zeros((*SHAPE, 64), np.float32), "lse": np.zeros((3, 4, 2), np.float32)}[argument]
    frozen.flags.writeable = False
    with pytest.raises(flashmla.InvalidArgumentError, match=f"^{argument} is read-only"):
        flashmla.merge_states(outs, lses, **{argument: frozen})


def shards(kv_cache, block_table, lengths, world, interleave):
    """The cache dealt out: (kv_cache, block_table, cache_seqlens) of each shard, in pages of the same size."""
    page_size = kv_cache.shape[1]
    for rank in range(world):
        shard = Shard(rank, world, interleave)
        pages, counts = np.full_like(kv_cache, np.nan), np.zeros_like(lengths)
        for i, length in enumerate(lengths):
            tokens = shard.global_tokens(int(length))
            tokens = tokens[tokens < length]
            counts[i] = len(tokens)
            for place, token in enumerate(tokens):
                source = kv_cache[block_table[i, token // page_size], token % page_size]
                pages[block_table[i, place // page_size], place % page_size] = source
        yield pages, block_table, counts


def test_shards_of_a_context_merge_to_the_whole():
    q, kv_cache, block_table, lengths = small.inputs(lengths=(5, 100))
    world, interleave = 3, 4
    parts = [
        flashmla.dense_decode(
            *(q, *shard),
            causal=True,
            empty_lse=-math.inf,
            cp_rank=rank,
            cp_world=world,
            cp_interleave=interleave,
            global_seqlens=lengths,
        )
        for rank, shard in enumerate(shards(kv_cache, block_table, lengths, world, interleave))
    ]
    merged = flashmla.merge_states(*zip(*parts, strict=True))
    small.check(*merged, (q, kv_cache, block_table, lengths), causal=True)


def test_the_fast_way_is_taken(only_fast):
    torch = pytest.importorskip("torch")
    outs, lses = torch.randn(3, 2, 1, 4, 64), torch.randn(3, 2, 4, 1)
    for parts in ((outs, lses), (list(outs), list(lses))):
        first = flashmla.merge_states(*parts)
        with only_fast():
            again = flashmla.merge_states(*parts)
            given = flashmla.merge_states(*parts, out=torch.empty(2, 1, 4, 64), lse=torch.empty(2, 4, 1))
        for found in (again, given):
            assert all(bool((one == other).all()) for one, other in zip(found, first, strict=True))


def test_more_states_than_the_fast_way_takes():
    torch = pytest.importorskip("torch")
    outs, lses = [torch.randn(1, 1, 2, 64)] * 50, [torch.randn(1, 2, 1)] * 50
    out, _ = flashmla.merge_states(outs, lses)
    torch.testing.assert_close(out, outs[0])


def test_a_prepared_call(framework):
    draw = np.random.default_rng(5)
    outs = draw.standard_normal((3, 2, 1, 4, 64)).astype(np.float32)
    lses = draw.standard_normal((3, 2, 4, 1)).astype(np.float32)
    if framework == "torch":
        torch = pytest.importorskip("torch")
        outs, lses = torch.from_numpy(outs), torch.from_numpy(lses)
    wanted = flashmla.merge_states(outs, lses)
    prepared = flashmla.prepare(flashmla.merge_states, list(outs), list(lses))
    for found in (flashmla.prepare(flashmla.merge_states, outs, lses)(), prepared()):
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)
    turned = [2, 0, 1]
    found = prepared(outs=[outs[i] for i in turned], lses=[lses[i] for i in turned])
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    for wrong in ([outs[0]] * 2, outs[0], 3, outs, iter(outs), dict.fromkeys(range(3))):
        with pytest.raises(TypeError, match=r"^outs must be a list or tuple of 3 tensors"):
            prepared(outs=wrong)
    with pytest.raises(TypeError, match=r"^outs must be a list or tuple of 3 tensors"):
        prepared(outs=[outs[0]] * 4, lses=[lses[0]] * 2)  # as many as it takes, in the places of each other
    for wrong, kind in ((None, "a NoneType"), (3, "an int")):
        with pytest.raises(TypeError, match=rf"^outs\[1\] is {kind}: a tensor that supports DLPack"):
            prepared(outs=[outs[0], wrong, outs[2]])
