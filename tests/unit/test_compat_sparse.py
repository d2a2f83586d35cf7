"""`flash_mla_with_kvcache` with indices, on CPU tensors: `sparse_decode` under the names of FlashMLA."""

import copy

import pytest

from compat_sparse import D_QK, D_V, cache, close, decode, equal, flash_mla, inputs, ours, shown, torch

OF_THE_FORK = {"V32": "v32", "V32_NO_ROPE": "v32_nope", "V4": "model1", "V41": "v41"}


@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("kv_format", ["v32", "model1"])
def test_it_is_sparse_decode(kv_format, extra, lengths, sink):
    given = inputs(kv_format, extra=extra, lengths=lengths, sink=sink)
    found = decode(given)
    assert [tuple(tensor.shape) for tensor in found] == [(2, 3, 8, D_V), (2, 8, 3)]
    assert [tensor.dtype for tensor in found] == [torch.bfloat16, torch.float32]
    equal(found, ours(given, kv_format))
    equal(decode(given, softmax_scale=0.02), ours(given, kv_format, softmax_scale=0.02))


def test_all_arguments_by_their_places():
    """As FlashMLA's own test gives them."""
    given = inputs("model1", extra=True, lengths=True, sink=True)
    rest = ("indices", "attn_sink", "extra_k_cache", "extra_indices_in_kvcache", "topk_length", "extra_topk_length")
    places = (given["q"], given["k_cache"], None, None, D_V, flash_mla.get_mla_metadata()[0], None, 0.02, False, True)
    found = flash_mla.flash_mla_with_kvcache(*places, *(given[name] for name in rest))
    equal(found, ours(given, "model1", softmax_scale=0.02))


def test_what_attends_to_nothing():
    """Rows of invalid indices and those of a request without any: out 0, lse +inf, whatever the sink."""
    given = inputs("model1", extra=True, sink=True)
    given["indices"].fill_(-1)
    given["extra_topk_length"] = torch.tensor([0, 9], dtype=torch.int32)
    out, lse = decode(given)
    assert not out[0].any()
    assert bool((lse[0] == torch.inf).all())
    assert bool(torch.isfinite(lse[1]).all())
    assert not out[1, :, 0].any()  # its sink is infinite
    assert bool(out[1, :, 1:].any())


@pytest.mark.parametrize("table", [(2, 0), (2, 7), (1,)], ids=str)
def test_block_table_and_cache_seqlens_are_not_looked_at(table):
    """SGLang gives a table without columns, vLLM one of zeros."""
    given = inputs()
    dummies = torch.zeros(table, dtype=torch.int32), torch.full((9,), 2**31 - 1, dtype=torch.int32)
    found = flash_mla.flash_mla_with_kvcache(
        given["q"], given["k_cache"], *dummies, D_V, flash_mla.get_mla_metadata()[0],
        is_fp8_kvcache=True, indices=given["indices"],
    )  # fmt: skip
    equal(found, ours(given))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("kv_format", ["v32", "model1"])
def test_a_cache_is_bytes_of_any_type(kv_format, dtype):
    given = inputs(kv_format, extra=True)
    wanted = ours(given, kv_format)
    for name in ("k_cache", "extra_k_cache"):
        given[name] = given[name][:, :, 0].view(dtype).unsqueeze(-2)
    equal(decode(given), wanted)


@pytest.mark.parametrize(("kv_format", "row"), [("v32", 656), ("model1", 584)])
def test_pages_with_room_behind_them(kv_format, row):
    """As FlashMLA's test and vLLM lay them out: V32 with a row between pages, MODEL1 in multiples of 576 bytes."""
    given = inputs(kv_format)
    wanted = ours(given, kv_format)
    size = 46 * row if kv_format == "v32" else -(-45 * row // 576) * 576
    pages = torch.full((6, size), 0x7F, dtype=torch.uint8)[:, : 45 * row].view(6, 45, 1, row)
    given["k_cache"] = cache(kv_format, 6, 45, 1, out=pages)
    assert given["k_cache"].stride(0) == size
    for found, each in zip(decode(given), wanted, strict=True):  # the same tokens in the same slots
        torch.testing.assert_close(found, each)


def test_strided_queries_and_indices():
    """As FlashMLA's test has them: parts of larger tensors."""
    given = inputs(extra=False)
    wanted = ours(given)
    for name in ("q", "indices"):
        tensor = given[name]
        larger = tensor.new_full([*(extent + 1 for extent in tensor.shape[:-1]), tensor.shape[-1] + 128], 7)
        given[name] = larger[tuple(slice(extent) for extent in tensor.shape)]
        given[name].copy_(tensor)
    equal(decode(given), wanted)


@pytest.mark.parametrize("heads", [5, 16, 64])
def test_heads_may_be_padded_or_not(heads):
    given = inputs("model1", h_q=heads, sink=True)
    out, lse = decode(given)
    padded = dict(given, q=given["q"].new_zeros(2, 3, 128, 512), attn_sink=torch.zeros(128))
    padded["q"][:, :, :heads] = given["q"]
    padded["attn_sink"][:heads] = given["attn_sink"]
    more_out, more_lse = decode(padded)
    torch.testing.assert_close(more_out[:, :, :heads], out, rtol=0.016, atol=1e-3)
    torch.testing.assert_close(more_lse[:, :heads], lse)


def test_a_mixed_batch_as_one_request():
    """Decode and prefill tokens beside each other, as vLLM gives them: b = 1, s_q = T."""
    given = inputs(batch=4)
    out, lse = decode(given)
    mixed = {name: tensor if name == "k_cache" else tensor.flatten(0, 1)[None] for name, tensor in given.items()}
    one_out, one_lse = decode(mixed)
    equal((one_out.view_as(out), one_lse.view(8, 4, 3).transpose(0, 1)), (out, lse))


@pytest.mark.parametrize("named", [*OF_THE_FORK, *D_QK])
def test_the_format_may_be_named(named):
    kv_format = OF_THE_FORK.get(named, named)
    given = inputs(kv_format, extra=True)
    wanted = ours(given, kv_format)
    for is_fp8_kvcache in (kv_format != "bf16", None):
        equal(decode(given, kv_format=named, is_fp8_kvcache=is_fp8_kvcache), wanted)


@pytest.mark.parametrize("kv_format", ["v32", "model1", "bf16"])
def test_what_the_cache_holds_may_be_told_by_its_dtype(kv_format):
    given = inputs(kv_format)
    equal(decode(given, is_fp8_kvcache=None), ours(given, kv_format))


def test_the_older_style():
    given = inputs("model1", extra=True)
    wanted = ours(given, "model1")
    lengths = torch.ones(2, dtype=torch.int32)
    metadata = flash_mla.get_mla_metadata(lengths, 24, 1, num_heads_q=8, is_fp8_kvcache=True, topk=70)
    equal(decode(given, *metadata), wanted)
    equal(decode(given, torch.full((132, 8), -5, dtype=torch.int32)), wanted)


def test_a_result_that_is_given():
    given = inputs()
    wanted = torch.full((2, 3, 8, D_V), torch.nan, dtype=torch.bfloat16)
    out, lse = decode(given, out=wanted)
    assert out is wanted
    equal((out, lse), ours(given))


def test_a_handle_serves_many_calls():
    """With the plan of the first one, though lengths and indices change."""
    given = inputs("model1", extra=True, lengths=True)
    meta, nothing = flash_mla.get_mla_metadata()
    equal(decode(given, meta, nothing), ours(given, "model1"))
    assert meta.config == flash_mla.FlashMLASchedMeta.Config(2, 3, 8, 54, 1, False, True, 70, 2, 9)
    buffer = meta.tile_scheduler_metadata
    assert (buffer.dtype, buffer.shape[1]) == (torch.int32, 8)
    assert (meta.num_splits.dtype, tuple(meta.num_splits.shape)) == (torch.int32, (3,))
    before = shown(meta)
    for change in ("topk_length", "extra_topk_length", "indices"):
        given[change].fill_(5)
        close(decode(given, meta), ours(given, "model1"))
    assert shown(meta) == before
    twin = copy.deepcopy(meta)
    assert twin.tile_scheduler_metadata is not buffer
    equal(decode(given, twin), ours(given, "model1"))
    assert twin._schedule.plan is not meta._schedule.plan
    meta.tile_scheduler_metadata = meta.num_splits = None
    equal(decode(given, meta), ours(given, "model1"))
    assert meta.num_splits is not None


@pytest.mark.parametrize("change", ["a copy", "garbage"])
def test_a_handles_tensors_may_be_assigned(change):
    """Then each call schedules itself."""
    given = inputs("v32", lengths=True)
    meta, _ = flash_mla.get_mla_metadata()
    decode(given, meta)
    shown_there = meta.tile_scheduler_metadata
    meta.tile_scheduler_metadata = shown_there.clone() if change == "a copy" else torch.full_like(shown_there, 77)
    equal(decode(given, meta), ours(given, "v32"))
    assert meta.tile_scheduler_metadata is not meta._schedule.buffer


def test_batch_invariant_calls():
    given = inputs("v32", lengths=True)
    meta, _ = flash_mla.get_mla_metadata()
    for invariant in (False, True, True):
        found = decode(given, meta, enable_batch_invariant=invariant)
        equal(found, ours(given, "v32", batch_invariant=invariant))
        assert meta._schedule.batch_invariant == invariant
    equal(decode(given, torch.zeros(1, 8, dtype=torch.int32), enable_batch_invariant=True), found)
