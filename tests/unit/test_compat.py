"""`flashmla.compat.flash_mla`: FlashMLA's Python interface with both metadata styles, on CPU tensors."""

import copy
import importlib
import importlib.util
import inspect
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import pytest

import flashmla
import flashmla.compat
import small

torch = pytest.importorskip("torch")
flash_mla = flashmla.compat.flash_mla

D_V = 512


@pytest.fixture
def no_flash_mla(monkeypatch):
    """The real one may be installed and imported; whatever a test registers is gone afterwards."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "flash_mla"]:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "flash_mla"]:
        del sys.modules[name]


def tensors(**options):
    """(arrays for the oracle, the same as CPU tensors)."""
    arrays = small.inputs(**options)
    return arrays, [torch.from_numpy(array) for array in arrays]


def check(found, arrays, **options):
    small.check(*(tensor.numpy() for tensor in found), arrays, **options)


def test_the_signature_is_the_peers():
    names = [*inspect.signature(flash_mla.flash_mla_with_kvcache).parameters]
    assert names == [
        *("q", "k_cache", "block_table", "cache_seqlens", "head_dim_v", "tile_scheduler_metadata", "num_splits"),
        *("softmax_scale", "causal", "is_fp8_kvcache", "indices", "attn_sink", "extra_k_cache"),
        *("extra_indices_in_kvcache", "topk_length", "extra_topk_length"),
        *("kv_format", "use_legacy", "out", "enable_batch_invariant"),  # added by its forks and later
    ]


def test_batch_invariant_calls():
    """A handle has a plan of the kind that the call asks for."""
    _, given = tensors()
    wanted = [flashmla.dense_decode(*given, batch_invariant=invariant) for invariant in (False, True)]
    meta, _ = flash_mla.get_mla_metadata()
    for invariant in (True, True, False, True):
        found = flash_mla.flash_mla_with_kvcache(*given, D_V, meta, enable_batch_invariant=invariant)
        assert all(map(torch.equal, found, wanted[invariant]))
        assert meta._schedule.batch_invariant == invariant
        assert meta.tile_scheduler_metadata is meta._schedule.buffer
    older = flash_mla.get_mla_decoding_metadata(given[3], 8, 1, 4, False, None)
    found = flash_mla.flash_mla_with_kvcache(*given, D_V, *older, enable_batch_invariant=True)
    assert all(map(torch.equal, found, wanted[True]))


@pytest.mark.parametrize("causal", [False, True])
def test_a_handle_is_filled_once_and_serves_many_calls(causal):
    arrays, given = tensors()
    meta, nothing = flash_mla.get_mla_metadata()
    assert nothing is None
    assert (meta.have_initialized, meta.config, meta.tile_scheduler_metadata, meta.num_splits) == (False, *[None] * 3)
    check(flash_mla.flash_mla_with_kvcache(*given, D_V, meta, nothing, causal=causal), arrays, causal=causal)
    assert meta.have_initialized
    assert meta.config == flash_mla.FlashMLASchedMeta.Config(2, 2, 4, 64, 1, causal, False, None, None, None)
    buffer = meta.tile_scheduler_metadata
    assert (buffer.dtype, buffer.shape[1], buffer.device) == (torch.int32, 8, given[0].device)
    assert (meta.num_splits.dtype, meta.num_splits.shape) == (torch.int32, (3,))
    for scale in (None, 0.5):
        found = flash_mla.flash_mla_with_kvcache(*given, D_V, meta, softmax_scale=scale, causal=causal)
        check(found, arrays, causal=causal, softmax_scale=scale)
    assert meta.tile_scheduler_metadata is buffer


def test_lengths_may_change_under_a_handle():
    arrays, given = tensors()
    meta, _ = flash_mla.get_mla_metadata()
    for lengths in ((5, 100), (128, 1), (0, 64)):
        arrays[3][:] = lengths  # the tensors share the arrays' memory
        check(flash_mla.flash_mla_with_kvcache(*given, D_V, meta), arrays)


@pytest.mark.parametrize("change", ["None", "a copy", "garbage", "another tensor's content"])
def test_a_handles_tensors_may_be_assigned_and_overwritten(change):
    arrays, given = tensors()
    meta, _ = flash_mla.get_mla_metadata()
    flash_mla.flash_mla_with_kvcache(*given, D_V, meta)
    if change == "None":
        meta.tile_scheduler_metadata = meta.num_splits = None
    elif change == "a copy":
        meta.tile_scheduler_metadata, meta.num_splits = meta.tile_scheduler_metadata.clone(), meta.num_splits.clone()
    elif change == "garbage":
        meta.tile_scheduler_metadata = torch.full_like(meta.tile_scheduler_metadata, 77)
    else:
        other, _ = flash_mla.get_mla_metadata()
        lengths = torch.tensor([128, 128], dtype=torch.int32)
        flash_mla.flash_mla_with_kvcache(*given[:3], lengths, D_V, other)
        meta.tile_scheduler_metadata.copy_(other.tile_scheduler_metadata)
    check(flash_mla.flash_mla_with_kvcache(*given, D_V, meta), arrays)
    assert (meta.tile_scheduler_metadata is meta._schedule.buffer) == (change in {"None", "another tensor's content"})


def state(meta):
    """What a handle holds: by value what it shows, by identity its tensors and its plan."""
    return (
        meta.have_initialized,
        meta.config,
        id(meta.tile_scheduler_metadata),
        id(meta.num_splits),
        id(meta._schedule),
    )


def of_pages(k_cache, size):
    """The same memory in pages of another size."""
    return k_cache.reshape(-1, size, *k_cache.shape[2:])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"h_q": 8}, "h_q is 8 instead of 4"),
        ({"s_q": 1}, "s_q is 1 instead of 2"),
        ({"lengths": (5, 100, 7)}, "b is 3 instead of 2"),
        ({"lengths": (5,), "h_q": 2}, "b is 1 instead of 2, h_q is 2 instead of 4"),
        ({"page_block_size": 32}, "page_block_size is 32 instead of 64"),
        ({"h_k": 2}, "page_block_size is 32 instead of 64, h_k is 2 instead of 1"),
        ({"causal": True}, "causal is True instead of False"),
    ],
    ids=str,
)
def test_other_calls_with_the_same_handle_are_refused(change, sentence):
    arrays, given = tensors()
    meta, _ = flash_mla.get_mla_metadata()
    flash_mla.flash_mla_with_kvcache(*given, D_V, meta)
    before = state(meta)
    causal = change.get("causal", False)
    _, other = tensors(**{name: change[name] for name in change if name in {"h_q", "s_q", "lengths"}})
    if "page_block_size" in change:
        other[1] = of_pages(other[1], change["page_block_size"])
    if "h_k" in change:
        other[1] = other[1].reshape(-1, 32, change["h_k"], 576)
    with pytest.raises(
        AssertionError, match=f"^{sentence}: one FlashMLASchedMeta serves .* take a new one from get_mla_metadata"
    ):
        flash_mla.flash_mla_with_kvcache(*other, D_V, meta, causal=causal)
    assert state(meta) == before
    check(flash_mla.flash_mla_with_kvcache(*given, D_V, meta), arrays)


def fp8(tensor):
    return tensor.to(torch.float8_e4m3fn)


REFUSED = [  # (argument, what becomes of it, exception, sentence)
    (
        "q",
        lambda q: q[0],
        ValueError,
        r"^q\.ndim is 3; it must be 4 \(batch, s_q, h_q, d_qk\), or 3 with cu_seqlens_q$",
    ),
    (
        "q",
        lambda q: q[0, 0, 0, 0],
        ValueError,
        r"^q\.ndim is 0; it must be 4 \(batch, s_q, h_q, d_qk\), or 3 with cu_seqlens_q$",
    ),
    ("q", lambda q: q.numpy(), TypeError, r"^q is an ndarray: a torch\.Tensor is needed$"),
    ("q", lambda q: q.tolist(), TypeError, r"^q is a list: a torch\.Tensor is needed$"),
    (
        "q",
        lambda q: q[..., :128],
        flashmla.FlashMLAError,
        r"^k_cache\.shape\[3\] is 576, q\.shape\[3\] \(d_qk\) is 128",
    ),
    ("k_cache", lambda k: k[:, :, 0], ValueError, r"^k_cache\.ndim is 3; it must be 4 \(num_blocks, "),
    ("k_cache", lambda k: k.numpy(), TypeError, r"^k_cache is an ndarray: a torch\.Tensor is needed$"),
    ("k_cache", lambda k: [k], TypeError, r"^k_cache is a list: a torch\.Tensor is needed$"),
    ("k_cache", lambda k: k.half(), ValueError, r"^k_cache\.dtype is float16, q\.dtype is float32; they must be equal"),
    ("k_cache", lambda k: k.byte(), NotImplementedError, r"^k_cache\.dtype is torch\.uint8: .* no fp8 caches without"),
    (
        "k_cache",
        fp8,
        NotImplementedError,
        r"^k_cache\.dtype is torch\.float8_e4m3fn: .* no fp8 caches without indices, k_cache must be",
    ),
    (
        "is_fp8_kvcache",
        lambda _: True,
        NotImplementedError,
        "^is_fp8_kvcache is True: .* no fp8 caches without indices, k_cache must be",
    ),
    ("block_table", lambda _: None, TypeError, r"^block_table is a NoneType: a torch\.Tensor is needed$"),
    (
        "block_table",
        lambda table: table.long(),
        ValueError,
        r"^block_table\.dtype is int64; it must be int32, as in block_table\.to\(torch\.int32\)$",
    ),
    ("cache_seqlens", lambda lengths: lengths.tolist(), TypeError, r"^cache_seqlens is a list: a torch\.Tensor is"),
    ("cache_seqlens", lambda lengths: lengths[:1], ValueError, r"^cache_seqlens\.shape\[0\] is 1, "),
    *(
        (
            "head_dim_v",
            lambda _, wrong=wrong: wrong,
            flashmla.UnsupportedError,
            f"^head_dim_v is {wrong}; .* must be 512$",
        )
        for wrong in (256, 0, -1, 2**31 - 1)
    ),
    ("head_dim_v", lambda _: "512", TypeError, "^head_dim_v is '512', a str: an integer is needed$"),
    ("causal", lambda _: "yes", TypeError, "^causal is 'yes', a str"),
    ("softmax_scale", lambda _: -1.0, ValueError, "^softmax_scale is -1; it must be finite and > 0"),
]


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
@pytest.mark.parametrize(("argument", "become", "kind", "sentence"), REFUSED)
def test_a_refused_call_leaves_the_handle_as_it_was(used, argument, become, kind, sentence):
    arrays, given = tensors()
    meta, _ = flash_mla.get_mla_metadata()
    if used:
        flash_mla.flash_mla_with_kvcache(*given, D_V, meta)
    before = state(meta)
    names = ("q", "k_cache", "block_table", "cache_seqlens")
    options = {**dict(zip(names, given, strict=True)), "head_dim_v": D_V}
    wrong = {**options, argument: become(options.get(argument))}
    # Against the first call, a flag that is none is a change like any other.
    if used and argument == "causal":
        kind, sentence = AssertionError, "^causal is yes instead of False"
    with pytest.raises(kind, match=sentence):
        flash_mla.flash_mla_with_kvcache(**wrong, tile_scheduler_metadata=meta)
    assert state(meta) == before
    check(flash_mla.flash_mla_with_kvcache(*given, D_V, meta), arrays)


@pytest.mark.parametrize(("argument", "become", "kind", "sentence"), REFUSED)
def test_the_older_style_refuses_the_same(argument, become, kind, sentence):
    _, given = tensors()
    names = ("q", "k_cache", "block_table", "cache_seqlens")
    options = {**dict(zip(names, given, strict=True)), "head_dim_v": D_V}
    metadata, num_splits = flash_mla.get_mla_metadata(given[3])
    with pytest.raises(kind, match=sentence):
        flash_mla.flash_mla_with_kvcache(
            **{**options, argument: become(options.get(argument))},
            tile_scheduler_metadata=metadata,
            num_splits=num_splits,
        )


def test_a_failure_after_the_plan_was_made_leaves_the_handle_as_it_was():
    """Also where a used handle was given a new plan, for the number of pages changed."""
    arrays, given = tensors()
    meta, _ = flash_mla.get_mla_metadata()
    for pages in (given[1], torch.cat([given[1], given[1]])):
        before = state(meta)
        other = [given[0], pages, *given[2:]]
        with pytest.raises(ValueError, match=r"^softmax_scale"):
            flash_mla.flash_mla_with_kvcache(*other, D_V, meta, softmax_scale=torch.nan)
        assert state(meta) == before
        check(flash_mla.flash_mla_with_kvcache(*given, D_V, meta), arrays)


def test_a_head_dim_v_that_follows_from_a_narrower_query():
    arrays, given = tensors(d_qk=320)
    out, lse = flash_mla.flash_mla_with_kvcache(*given, 256, flash_mla.get_mla_metadata()[0])
    check((out, lse), arrays)
    with pytest.raises(flashmla.UnsupportedError, match=r"^head_dim_v is 512; with q\.shape\[-1\] 320 it must be 256$"):
        flash_mla.flash_mla_with_kvcache(*given, 512, flash_mla.get_mla_metadata()[0])


def test_what_the_peer_lets_change_may_change():
    """The number of pages and the width of the table: the plan is made anew."""
    arrays, (q, kv_cache, block_table, cache_seqlens) = tensors()
    meta, _ = flash_mla.get_mla_metadata()
    for more_pages, more_columns in ((0, 0), (3, 0), (0, 2), (0, 0)):
        cache = torch.cat([kv_cache, torch.full((more_pages, *kv_cache.shape[1:]), torch.nan)])
        table = torch.cat([block_table, torch.full((2, more_columns), 2147480000, dtype=torch.int32)], 1)
        check(flash_mla.flash_mla_with_kvcache(q, cache, table, cache_seqlens, D_V, meta), arrays)


@pytest.mark.parametrize("used", [False, True])
def test_a_handle_may_be_copied(used):
    arrays, given = tensors()
    meta, _ = flash_mla.get_mla_metadata()
    if used:
        flash_mla.flash_mla_with_kvcache(*given, D_V, meta)
    twin = copy.deepcopy(meta)
    assert twin == meta if not used else twin.config == meta.config
    before = state(meta)
    shown = twin.tile_scheduler_metadata, twin.num_splits
    if used:
        assert shown[0].data_ptr() != meta.tile_scheduler_metadata.data_ptr()
        assert bool((shown[0] == meta.tile_scheduler_metadata).all())
        twin.tile_scheduler_metadata.fill_(77)  # its own memory, in which its plan is made
    for _ in range(2):
        check(flash_mla.flash_mla_with_kvcache(*given, D_V, twin), arrays)
        assert twin._schedule.buffer is twin.tile_scheduler_metadata
        assert twin._schedule.plan is not None
    assert not used or (twin.tile_scheduler_metadata is shown[0] and twin.num_splits is shown[1])
    assert state(meta) == before
    check(flash_mla.flash_mla_with_kvcache(*given, D_V, meta), arrays)
    again = copy.deepcopy(copy.deepcopy(twin))
    check(flash_mla.flash_mla_with_kvcache(*given, D_V, again), arrays)
    _, other = tensors(h_q=8)
    with pytest.raises(AssertionError, match=r"^h_q is 8 instead of 4: "):
        flash_mla.flash_mla_with_kvcache(*other, D_V, copy.deepcopy(twin))


def test_a_copy_for_a_wider_table_plans_anew():
    arrays, given = tensors()
    meta, _ = flash_mla.get_mla_metadata()
    flash_mla.flash_mla_with_kvcache(*given, D_V, meta)
    twin = copy.deepcopy(meta)
    wider = torch.cat([given[2]] * 600, 1)
    check(flash_mla.flash_mla_with_kvcache(*given[:2], wider, given[3], D_V, twin), arrays)
    check(flash_mla.flash_mla_with_kvcache(*given, D_V, twin), arrays)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("flash_mla_sparse_fwd", "sparse prefill"),
        ("flash_attn_varlen_func", "dense prefill"),
        ("flash_attn_varlen_qkvpacked_func", "dense prefill"),
        ("flash_attn_varlen_kvpacked_func", "dense prefill"),
    ],
)
@pytest.mark.usefixtures("no_flash_mla")
def test_what_is_not_there_can_be_imported(name, what):
    flashmla.compat.install()
    for module in ("flash_mla", "flash_mla.flash_mla_interface"):
        found = {}
        exec(f"from {module} import {name} as found", found)
        sentence = rf"^{name}: flashmla\.compat\.flash_mla does decode \(flash_mla_with_kvcache\), no {what}$"
        for arguments in ((), (1, 2, 3)):
            with pytest.raises(NotImplementedError, match=sentence):
                found["found"](*arguments)
    assert found["found"].__name__ == name


def test_it_has_the_peers_version():
    assert flash_mla.__version__ == "1.0.0"


EXPANDED = {
    "q": lambda q: q[:1].expand(2, -1, -1, -1),
    "k_cache": lambda cache: cache[:1].expand(4, -1, -1, -1),
    "block_table": lambda table: table[:1].expand(2, 2),
}


@pytest.mark.parametrize("argument", EXPANDED)
@pytest.mark.parametrize("style", ["handle", "older"])
def test_expanded_tensors(argument, style):
    """As the peer takes them: one row for all requests, with a stride of 0."""
    _, given = tensors()
    at = [*EXPANDED].index(argument)
    given[at] = EXPANDED[argument](given[at])
    assert 0 in given[at].stride()
    metadata = flash_mla.get_mla_metadata(*(() if style == "handle" else (given[3],)))[0]
    arrays = [tensor.contiguous().numpy() for tensor in given]
    for _ in range(2):
        check(flash_mla.flash_mla_with_kvcache(*given, D_V, metadata), arrays)
    decode = flashmla.prepare(flashmla.dense_decode, *given)
    check(decode(), arrays)
    check(decode(**{argument.replace("k_cache", "kv_cache"): given[at]}), arrays)


def test_num_splits_beside_a_handle_is_refused():
    _, given = tensors()
    meta, _ = flash_mla.get_mla_metadata()
    with pytest.raises(AssertionError, match="num_splits must be None"):
        flash_mla.flash_mla_with_kvcache(*given, D_V, meta, torch.zeros(3, dtype=torch.int32))


@pytest.mark.parametrize("keyword", [False, True])
def test_the_older_style_survives_copies_into_static_buffers(keyword):
    """As servers do it: buffers for the largest batch, of which each batch uses a part."""
    arrays, given = tensors()
    static, static_splits = flash_mla.get_mla_metadata(torch.ones(16, dtype=torch.int32), 4, 1)
    of_device = torch.zeros(132, 8, dtype=torch.int32)  # a row a multiprocessor
    for lengths in ((5, 100), (128, 1)):
        arrays[3][:] = lengths
        if keyword:
            metadata, num_splits = flash_mla.get_mla_metadata(
                cache_seqlens=given[3], num_q_tokens_per_head_k=8, num_heads_k=1, num_heads_q=4
            )
        else:
            metadata, num_splits = flash_mla.get_mla_metadata(given[3], 8, 1)
        assert (metadata.dtype, num_splits.dtype) == (torch.int32, torch.int32)
        assert (metadata.shape[1], num_splits.shape) == (8, (3,))
        static.copy_(metadata)
        static_splits[:3].copy_(num_splits)
        of_device[: len(metadata)].copy_(metadata)
        for buffer in (metadata, static, of_device):
            check(flash_mla.flash_mla_with_kvcache(*given, D_V, buffer, static_splits[:3]), arrays)


def test_int32_metadata_of_a_callers_own():
    """The call schedules itself."""
    arrays, given = tensors()
    metadata = torch.full((7, 8), -5, dtype=torch.int32)
    check(flash_mla.flash_mla_with_kvcache(*given, D_V, metadata, causal=True), arrays, causal=True)


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        (None, "a NoneType"),
        ("x", "a str"),
        (flash_mla.get_mla_metadata(), "a tuple"),
        (flash_mla.FlashMLASchedMeta, "a type"),
        (torch.zeros(1, 8), "a tensor of torch.float32"),
        (torch.zeros(1, 8, dtype=torch.int64), "a tensor of torch.int64"),
        (torch.zeros(1, 8, dtype=torch.int32).numpy(), "an ndarray"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_metadata_of_neither_style_is_refused(metadata, found):
    _, given = tensors()
    sentence = f"^tile_scheduler_metadata is {found}: the first of the two values that get_mla_metadata returns"
    with pytest.raises(TypeError, match=sentence):
        flash_mla.flash_mla_with_kvcache(*given, D_V, metadata)


def test_forks_have_another_name_of_the_older_style():
    lengths = torch.tensor([3, 5], dtype=torch.int32)
    for named in ((lengths, 64, 1), (lengths,)):
        found = flash_mla.get_mla_decoding_metadata(*named)
        assert [tuple(one.shape) for one in found] == [(1, 8), (3,)]
    with pytest.raises(TypeError, match=r"^cache_seqlens is a list"):
        flash_mla.get_mla_decoding_metadata([1], 64, 1)


def test_lengths_of_the_older_style_must_be_a_tensor():
    with pytest.raises(TypeError, match=r"^cache_seqlens is a list: a torch\.Tensor is needed$"):
        flash_mla.get_mla_metadata([5, 100], 8, 1)


@pytest.mark.parametrize(
    "argument",
    ["attn_sink", "extra_k_cache", "extra_indices_in_kvcache", "topk_length", "extra_topk_length", "kv_format"],
)
def test_what_is_of_sparse_attention_alone_is_refused(argument):
    _, given = tensors()
    with pytest.raises(AssertionError, match=f"^{argument} is given, indices is not: it must be None for dense"):
        flash_mla.flash_mla_with_kvcache(*given, D_V, flash_mla.get_mla_metadata()[0], **{argument: torch.zeros(1)})


def test_an_error_is_of_the_peers_type_too():
    """A RuntimeError, and what `dense_decode` raises, with its status."""
    _, given = tensors()
    with pytest.raises(RuntimeError) as caught:
        flash_mla.flash_mla_with_kvcache(*given, D_V, flash_mla.get_mla_metadata()[0], softmax_scale=-1.0)
    assert isinstance(caught.value, flashmla.InvalidArgumentError)
    assert caught.value.status_name == "FLASHMLA_ERROR_VALUE"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (type(caught.value), str(caught.value))


def test_the_newer_one_of_the_two_interfaces_in_sglangs_fork_is_refused():
    arrays, given = tensors()
    check(flash_mla.flash_mla_with_kvcache(*given, D_V, flash_mla.get_mla_metadata()[0], use_legacy=True), arrays)
    with pytest.raises(NotImplementedError, match=r"^use_legacy is False: it must be True"):
        flash_mla.flash_mla_with_kvcache(*given, D_V, flash_mla.get_mla_metadata()[0], use_legacy=False)


def test_a_result_that_is_given():
    arrays, given = tensors()
    wanted = torch.empty(2, 2, 4, D_V)
    for metadata in (flash_mla.get_mla_metadata()[0], flash_mla.get_mla_metadata(given[3])[0]):
        wanted.fill_(torch.nan)
        out, lse = flash_mla.flash_mla_with_kvcache(*given, D_V, metadata, out=wanted)
        assert out is wanted
        check((out, lse), arrays)


@pytest.mark.usefixtures("no_flash_mla")
def test_install_is_what_an_import_finds():
    flashmla.compat.install()
    flashmla.compat.install()
    assert importlib.import_module("flash_mla") is flash_mla
    assert importlib.import_module("flash_mla.flash_mla_interface") is flash_mla.flash_mla_interface
    assert importlib.util.find_spec("flash_mla").submodule_search_locations
    assert importlib.util.find_spec("flash_mla.cuda") is None
    with pytest.raises(ModuleNotFoundError, match=r"flash_mla\.cuda"):
        importlib.import_module("flash_mla.cuda")


@pytest.mark.usefixtures("no_flash_mla")
@pytest.mark.parametrize(
    "statement",
    [
        "import flash_mla; found = flash_mla.flash_mla_interface",
        "import flash_mla.flash_mla_interface; found = flash_mla.flash_mla_interface",
        "import flash_mla.flash_mla_interface as found",
        "from flash_mla import flash_mla_interface as found",
        "from flash_mla.flash_mla_interface import *; import types; found = types.SimpleNamespace(**globals())",
        "from flash_mla import *; import types; found = types.SimpleNamespace(**globals())",
    ],
)
def test_every_way_to_import_the_interface(statement):
    flashmla.compat.install()
    names = {}
    exec(statement, names)
    for name in ("FlashMLASchedMeta", "flash_mla_with_kvcache", "get_mla_metadata"):
        assert getattr(names["found"], name) is getattr(flash_mla, name)


@pytest.mark.usefixtures("no_flash_mla")
@pytest.mark.parametrize("name", ["flash_mla", "flash_mla.flash_mla_interface"])
def test_install_does_not_hide_an_imported_peer(name):
    real = sys.modules[name] = types.ModuleType(name)
    with pytest.raises(ImportError, match=f"^{name} was imported before, .* force=True"):
        flashmla.compat.install()
    assert [found for found in sys.modules if found.partition(".")[0] == "flash_mla"] == [name]
    assert sys.modules[name] is real
    flashmla.compat.install(force=True)
    assert sys.modules["flash_mla"] is flash_mla
    assert sys.modules["flash_mla.flash_mla_interface"] is flash_mla.flash_mla_interface


def test_importing_it_brings_no_framework():
    code = "import flashmla.compat, sys; flashmla.compat.install(); import flash_mla; print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(flashmla.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "False\n"
