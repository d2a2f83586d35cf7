"""What `flash_mla_with_kvcache` refuses with indices: by types of errors as FlashMLA, without a trace in the handle."""

import pytest

import flashmla
from compat_sparse import D_V, cache, decode, equal, flash_mla, inputs, ours, shown, torch

CHANGES = {  # what becomes of the first call, and what is said of it
    "b": (lambda _: inputs("model1", batch=3, extra=True), "^b is 3 instead of 2"),
    "s_q": (lambda _: inputs("model1", s_q=1, extra=True), "^s_q is 1 instead of 3"),
    "h_q": (lambda _: inputs("model1", h_q=16, extra=True), "^h_q is 16 instead of 8"),
    "topk": (lambda given: given | {"indices": given["indices"][..., :64]}, "^topk is 64 instead of 70"),
    "page": (lambda given: given | {"k_cache": cache("model1", 8, 62, 1)}, "^page_block_size is 62 instead of 54"),
    "extra page": (
        lambda given: given | {"extra_k_cache": cache("model1", 20, 4, 2)},
        "^extra_page_block_size is 4 instead of 2",
    ),
    "extra topk": (
        lambda given: given | {"extra_indices_in_kvcache": given["extra_indices_in_kvcache"][..., :5]},
        "^extra_topk is 5 instead of 9",
    ),
    "no extra": (
        lambda given: {name: given[name] for name in ("q", "k_cache", "indices")},
        "^extra_page_block_size is None instead of 2, extra_topk is None instead of 9",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_calls_with_the_same_handle_are_refused(change):
    become, sentence = CHANGES[change]
    given = inputs("model1", extra=True)
    meta, _ = flash_mla.get_mla_metadata()
    decode(given, meta)
    before = shown(meta)
    with pytest.raises(AssertionError, match=sentence + ": one FlashMLASchedMeta serves"):
        decode(become(given), meta)
    assert shown(meta) == before
    equal(decode(given, meta), ours(given, "model1"))


def test_a_handle_is_of_dense_or_of_sparse_calls():
    given, dense = inputs("bf16"), inputs("bf16")
    table = torch.arange(4, dtype=torch.int32).view(2, 2), torch.tensor([5, 9], dtype=torch.int32)
    meta, _ = flash_mla.get_mla_metadata()
    decode(given, meta, kv_format="bf16", is_fp8_kvcache=False)
    with pytest.raises(AssertionError, match=r"^topk is None instead of 70: "):
        flash_mla.flash_mla_with_kvcache(dense["q"], dense["k_cache"], *table, D_V, meta)
    meta, _ = flash_mla.get_mla_metadata()
    flash_mla.flash_mla_with_kvcache(dense["q"], dense["k_cache"], *table, D_V, meta)
    with pytest.raises(AssertionError, match=r"^topk is 70 instead of None: "):
        decode(given, meta, kv_format="bf16", is_fp8_kvcache=False)


ASSERTED = [  # (arguments, sentence)
    ({"causal": True}, "^causal is True: with indices it must be False$"),
    ({"is_fp8_kvcache": False}, "^is_fp8_kvcache is False: with indices it must be True, but for kv_format 'bf16'$"),
    ({"is_fp8_kvcache": False, "kv_format": "V32"}, "^is_fp8_kvcache is False"),
    ({"kv_format": "bf16"}, "^is_fp8_kvcache is True"),
    ({"num_splits": torch.zeros(3, dtype=torch.int32)}, "^num_splits must be None"),
]


@pytest.mark.parametrize(("options", "sentence"), ASSERTED)
def test_what_does_not_go_together(options, sentence):
    meta, _ = flash_mla.get_mla_metadata()
    with pytest.raises(AssertionError, match=sentence):
        decode(inputs(), meta, **options)
    assert shown(meta) == shown(flash_mla.get_mla_metadata()[0])


def without(*names):
    return lambda given: {name: tensor for name, tensor in given.items() if name not in names}


def become(name, change):
    return lambda given: given | {name: change(given[name])}


REFUSED = {  # what becomes of a call, and what is said of it
    "q of three axes": (become("q", lambda q: q[0]), r"^q\.ndim is 3; it must be 4"),
    "q in float16": (become("q", lambda q: q.half()), r"^q\.dtype is float16; with k_cache in format \"model1\""),
    "q of other columns": (
        become("q", lambda q: q[..., :320].contiguous()),
        r"^head_dim_v is 512; with q\.shape\[-1\] 320",
    ),
    "129 heads": (
        lambda given: given | {"q": given["q"].new_zeros(2, 3, 129, 512), "attn_sink": None},
        r"^q\.shape\[2\] \(h_q\) is 129",
    ),
    "q of V32": (become("q", lambda q: q.new_zeros(2, 3, 8, 576)), r"^k_cache\.shape\[3\] is 584"),
    "cache in bfloat16": (become("k_cache", lambda _: cache("bf16", 5, 54, 1)), r"^k_cache\.dtype is bfloat16"),
    "cache of three axes": (become("k_cache", lambda k: k[:, :, 0]), r"^k_cache\.ndim is 3"),
    "caches of two heads": (
        lambda given: given | {name: given[name].expand(-1, -1, 2, -1) for name in ("k_cache", "extra_k_cache")},
        r"^k_cache\.shape\[2\] \(h_kv\) is 2",
    ),
    "page of strided rows": (
        become("k_cache", lambda k: torch.cat([k, k], 1)[:, ::2]),
        r"^k_cache\.strides\[1\] is 1168",
    ),
    "extra cache of V32": (
        become("extra_k_cache", lambda _: cache("v32", 5, 2, 1)),
        r"^extra_k_cache\.shape\[3\] is 656",
    ),
    "indices of two axes": (become("indices", lambda i: i[0]), r"^indices\.ndim is 2"),
    "indices in int16": (become("indices", lambda i: i.short()), r"^indices\.dtype is int16"),
    "indices of another batch": (become("indices", lambda i: i[:1]), r"^indices\.shape\[0\] is 1"),
    "indices of other tokens": (become("indices", lambda i: i[:, :2]), r"^indices\.shape\[1\] is 2"),
    "strided indices": (
        become("indices", lambda i: i[..., ::2]),
        r"^indices\.strides\[2\] is 2; .*indices\.contiguous",
    ),
    "extra indices in int16": (
        become("extra_indices_in_kvcache", lambda i: i.short()),
        r"^extra_indices_in_kvcache\.dtype is int16",
    ),
    "no extra indices": (
        without("extra_indices_in_kvcache"),
        "^extra_indices_in_kvcache is None; with extra_k_cache it is required",
    ),
    "no extra cache": (
        without("extra_k_cache"),
        "^extra_k_cache is None; with extra_indices_in_kvcache it is required",
    ),
    "extra lengths alone": (
        without("extra_k_cache", "extra_indices_in_kvcache"),
        "^extra_topk_length is given; without extra_k_cache it must be left out",
    ),
    "lengths in int64": (become("topk_length", lambda length: length.long()), r"^topk_length\.dtype is int64"),
    "a length a token": (
        become("topk_length", lambda length: length.repeat_interleave(3)),
        r"^topk_length\.shape\[0\] is 6",
    ),
    "sink in bfloat16": (become("attn_sink", lambda sink: sink.bfloat16()), r"^attn_sink\.dtype is bfloat16"),
    "sink of other heads": (become("attn_sink", lambda sink: sink[:4]), r"^attn_sink\.shape\[0\] is 4"),
    "negative scale": (lambda given: given | {"softmax_scale": -1.0}, "^softmax_scale is -1"),
    "head_dim_v": (lambda given: given | {"head_dim_v": 256}, r"^head_dim_v is 256; .* it must be 512$"),
    "format of no name": (lambda given: given | {"kv_format": "V5"}, "^kv_format is 'V5'; it must be one of"),
    "format in a list": (lambda given: given | {"kv_format": ["V4"]}, r"^kv_format is \['V4'\]; it must be one of"),
}


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_call_leaves_the_handle_as_it_was(case, used):
    """RuntimeError, as FlashMLA raises; a used handle may see another call before that."""
    wrong, sentence = REFUSED[case]
    given = inputs("model1", extra=True, lengths=True, sink=True)
    meta, _ = flash_mla.get_mla_metadata()
    if used:
        decode(given, meta)
    before = shown(meta)
    options = {"head_dim_v": D_V, "is_fp8_kvcache": True, "block_table": None, "cache_seqlens": None} | wrong(given)
    with pytest.raises((RuntimeError, AssertionError) if used else RuntimeError) as caught:
        flash_mla.flash_mla_with_kvcache(**options, tile_scheduler_metadata=meta)
    if isinstance(caught.value, RuntimeError):
        assert isinstance(caught.value, flashmla.FlashMLAError)
        assert caught.match(sentence)
    assert shown(meta) == before
    equal(decode(given, meta), ours(given, "model1"))


@pytest.mark.parametrize("name", ["q", "k_cache", "indices", "extra_k_cache", "attn_sink", "topk_length"])
def test_what_is_no_tensor_is_refused(name):
    given = inputs("model1", extra=True, lengths=True, sink=True)
    with pytest.raises(TypeError, match=rf"^{name} is a list: a torch\.Tensor is needed$"):
        decode(given | {name: [1]})
