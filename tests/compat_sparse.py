"""Small calls of `flash_mla_with_kvcache` with indices, and what `sparse_decode` says of them."""

import pytest

import flashmla
import flashmla.compat

torch = pytest.importorskip("torch")
flash_mla = flashmla.compat.flash_mla

D_V = 512
D_QK = {"v32": 576, "v32_nope": 512, "model1": 512, "v41": 512, "bf16": 576}
OUR_NAMES = {
    "k_cache": "kv_cache",
    "extra_k_cache": "extra_kv_cache",
    "extra_indices_in_kvcache": "extra_indices",
}
LISTS = (("indices", "topk_length"), ("extra_indices_in_kvcache", "extra_topk_length"))


def cache(kv_format, pages, page_size, seed, *, out=None):
    """Pages of N(0, 1) tokens."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randn(pages * page_size, D_QK[kv_format], generator=draw)
    if kv_format == "bf16":
        return tokens.bfloat16().reshape(pages, page_size, 1, -1)
    return flashmla.quantize_kv(tokens, kv_format=kv_format, page_size=page_size, out=out)


def inputs(kv_format="v32", *, batch=2, s_q=3, h_q=8, topk=70, extra=False, lengths=False, sink=False):
    """Tensors by the peer's names."""
    draw = torch.Generator().manual_seed(3)
    given = {
        "q": torch.randn(batch, s_q, h_q, D_QK[kv_format], generator=draw).bfloat16(),
        "k_cache": cache(kv_format, 5, 54, 1),
        "indices": torch.randint(-1, 5 * 54, (batch, s_q, topk), generator=draw, dtype=torch.int32),
    }
    if extra:
        given["extra_k_cache"] = cache(kv_format, 40, 2, 2)
        given["extra_indices_in_kvcache"] = torch.randint(-1, 80, (batch, s_q, 9), generator=draw, dtype=torch.int32)
    if lengths:
        for indices, length in LISTS[: 1 + extra]:
            most = given[indices].shape[-1] + 1
            given[length] = torch.randint(0, most, (batch,), generator=draw, dtype=torch.int32)
    if sink:
        given["attn_sink"] = torch.randn(h_q, generator=draw)
        given["attn_sink"][:2] = torch.tensor([torch.inf, -torch.inf])
    return given


def decode(given, metadata=None, *options, **named):
    """A call as FlashMLA's own test makes it; metadata: that of a new handle."""
    tensors = {name: tensor for name, tensor in given.items() if name not in {"q", "k_cache"}}
    metadata = flash_mla.get_mla_metadata()[0] if metadata is None else metadata
    named = {"is_fp8_kvcache": True, **tensors, **named}
    return flash_mla.flash_mla_with_kvcache(given["q"], given["k_cache"], None, None, D_V, metadata, *options, **named)


def ours(given, kv_format="v32", **options):
    tensors = {OUR_NAMES.get(name, name): tensor for name, tensor in given.items()}
    return flashmla.sparse_decode(**tensors, kv_format=kv_format, **options)


def equal(found, wanted):
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)


def close(found, wanted):
    """Of one problem, cut in other places."""
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.016, atol=1e-2)


def shown(meta):
    return meta.have_initialized, meta.config, id(meta.tile_scheduler_metadata), id(meta.num_splits)
