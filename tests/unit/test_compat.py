"""`flashmla.compat.flash_mla`: FlashMLA's Python interface with both metadata styles, on CPU tensors."""

import importlib
import inspect
import os
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
    ]


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
    assert (meta.tile_scheduler_metadata is meta._plan_buffer) == (change in {"None", "another tensor's content"})


@pytest.mark.parametrize(
    "change", [{"h_q": 8}, {"s_q": 1}, {"lengths": (5, 100, 7)}, {"causal": True}, {"is_fp8_kvcache": True}], ids=str
)
def test_other_calls_with_the_same_handle_are_refused(change):
    _, given = tensors()
    meta, _ = flash_mla.get_mla_metadata()
    flash_mla.flash_mla_with_kvcache(*given, D_V, meta)
    options = {name: change[name] for name in change if name in {"causal", "is_fp8_kvcache"}}
    _, other = (None, given) if options else tensors(**change)
    kind = NotImplementedError if "is_fp8_kvcache" in options else AssertionError
    with pytest.raises(kind):
        flash_mla.flash_mla_with_kvcache(*other, D_V, meta, **options)


def test_what_the_peer_lets_change_may_change():
    """The number of pages and the width of the table: the plan is made anew."""
    arrays, (q, kv_cache, block_table, cache_seqlens) = tensors()
    meta, _ = flash_mla.get_mla_metadata()
    for more_pages, more_columns in ((0, 0), (3, 0), (0, 2), (0, 0)):
        cache = torch.cat([kv_cache, torch.full((more_pages, *kv_cache.shape[1:]), torch.nan)])
        table = torch.cat([block_table, torch.full((2, more_columns), 2147480000, dtype=torch.int32)], 1)
        check(flash_mla.flash_mla_with_kvcache(q, cache, table, cache_seqlens, D_V, meta), arrays)


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


def test_metadata_of_neither_style():
    """A caller's own tensors, or none: the call schedules itself."""
    arrays, given = tensors()
    for metadata in (None, torch.full((7, 8), -5, dtype=torch.int32)):
        check(flash_mla.flash_mla_with_kvcache(*given, D_V, metadata, causal=True), arrays, causal=True)


def test_a_wrong_head_dim_v_is_refused_by_c():
    _, given = tensors()
    with pytest.raises(flashmla.FlashMLAError, match=r"^out\.shape\[3\]"):
        flash_mla.flash_mla_with_kvcache(*given, 256, flash_mla.get_mla_metadata()[0])


@pytest.mark.parametrize(
    "argument",
    [
        *("indices", "attn_sink", "extra_k_cache", "extra_indices_in_kvcache", "topk_length", "extra_topk_length"),
        "is_fp8_kvcache",
    ],
)
def test_other_operations_of_the_peer_are_named(argument):
    _, given = tensors()
    value = True if argument == "is_fp8_kvcache" else torch.zeros(1)
    with pytest.raises(NotImplementedError, match=f"^{argument} is given: .* neither sparse attention nor fp8"):
        flash_mla.flash_mla_with_kvcache(*given, D_V, flash_mla.get_mla_metadata()[0], **{argument: value})


@pytest.mark.usefixtures("no_flash_mla")
def test_install_is_what_an_import_finds():
    flashmla.compat.install()
    flashmla.compat.install()
    assert importlib.import_module("flash_mla") is flash_mla
    assert importlib.import_module("flash_mla.flash_mla_interface").FlashMLASchedMeta is flash_mla.FlashMLASchedMeta


@pytest.mark.usefixtures("no_flash_mla")
def test_install_does_not_hide_an_imported_peer():
    real = sys.modules["flash_mla"] = types.ModuleType("flash_mla")
    with pytest.raises(ImportError, match=r"flash_mla was imported before, .* force=True"):
        flashmla.compat.install()
    assert sys.modules["flash_mla"] is real
    flashmla.compat.install(force=True)
    assert sys.modules["flash_mla"] is flash_mla


def test_importing_it_brings_no_framework():
    code = "import flashmla.compat, sys; flashmla.compat.install(); import flash_mla; print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(flashmla.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "False\n"
