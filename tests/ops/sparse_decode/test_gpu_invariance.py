"""Batch-invariant bits of sparse_decode on a GPU: alone and in a crowd, packed, by any plan, behind any padding."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

import flashmla
from ops.append_kv.oracle import FORMATS

torch = pytest.importorskip("torch")

BATCH, S_Q, TOPK, EXTRA_TOPK, SLOTS, PAGE = 90, 2, 2048, 200, 12_800, 64


@dataclass
class Crowd:
    """Requests that select tokens of one cache, or of two; some indices select nothing."""

    h_q: int
    formats: tuple[str, ...]
    sink: bool
    made: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.made = torch.Generator(device="cuda").manual_seed(self.h_q)
        columns = [FORMATS[name].columns for name in self.formats if name != "bf16"]
        self.d_qk = columns[0] if columns else 576
        self.q = torch.randn(BATCH, S_Q, self.h_q, self.d_qk, device="cuda", generator=self.made).bfloat16()
        self.options: dict = {}
        if self.sink:
            self.options["attn_sink"] = torch.randn(self.h_q, device="cuda", generator=self.made)
        self.caches, self.indices, self.lengths = [], [], []
        for kv_format, topk in zip(self.formats, (TOPK, EXTRA_TOPK), strict=False):
            self.caches.append(self.cache(kv_format))
            drawn = torch.randint(-SLOTS // 9, SLOTS, (BATCH, S_Q, topk), device="cuda", generator=self.made)
            self.indices.append(drawn.int())
            lengths = torch.randint(0, topk + 1, (BATCH,), device="cuda", generator=self.made)
            lengths[:4] = torch.tensor([topk, 0, 1, 65])
            self.lengths.append(lengths.int())

    def cache(self, kv_format: str) -> torch.Tensor:
        rows = torch.randn(SLOTS, self.d_qk, device="cuda", generator=self.made).bfloat16()
        if kv_format == "bf16":
            return rows.view(-1, PAGE, 1, self.d_qk)
        return flashmla.quantize_kv(rows, kv_format=kv_format, page_size=PAGE)

    def arguments(self, picks, tokens=slice(None), *, packed: bool = False) -> tuple[list, dict]:
        """What plan and call of some requests, and of some of their query tokens, have in common."""
        rows = [tensor[picks][:, tokens].contiguous() for tensor in (self.q, *self.indices)]
        options: dict = {"batch_invariant": True, "topk_length": self.lengths[0][picks]}
        if packed:
            count = rows[0].shape[1]
            rows = [tensor.flatten(0, 1) for tensor in rows]
            offsets = torch.arange(0, len(rows[0]) + 1, count, dtype=torch.int32, device="cuda")
            options |= {"cu_seqlens_q": offsets, "max_seqlen_q": count}
        if len(self.caches) > 1:
            options |= {"extra_indices": rows[2], "extra_topk_length": self.lengths[1][picks]}
        return rows[:2], options

    def decode(self, picks=None, tokens=slice(None), *, packed: bool = False, plan=None):
        """Rows of (request, query token), and their log-sum-exps."""
        picks = list(range(BATCH)) if picks is None else picks
        (q, indices), options = self.arguments(picks, tokens, packed=packed)
        options |= self.options | {"kv_format": self.formats[0], "plan": plan}
        if len(self.caches) > 1:
            options |= {"extra_kv_cache": self.caches[1], "extra_kv_format": self.formats[1]}
        out, lse = flashmla.sparse_decode(q, self.caches[0], indices, **options)
        if packed:
            return out.unflatten(0, (len(picks), -1)), lse.T.unflatten(0, (len(picks), -1))
        return out, lse.transpose(1, 2)


KINDS = {
    "bf16": (128, ("bf16",), False),
    "v32": (16, ("v32",), True),
    "model1 twice": (64, ("model1", "model1"), True),
    # In a crowd pairs of CTAs do 128 heads of codes, alone they do not.
    "v32 of 128 heads": (128, ("v32",), True),
    "v32_nope of 128 heads": (128, ("v32_nope",), False),
    "v41 of 128 heads": (128, ("v41",), True),
    "model1 twice of 128 heads": (128, ("model1", "model1"), True),
    "v32 and bf16": (128, ("v32", "bf16"), True),
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def crowd(request, gpu) -> Crowd:
    assert gpu is not None
    return Crowd(*request.param)


def same(found, wanted) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def test_alone_and_in_any_batch(crowd):
    out, lse = crowd.decode()
    assert torch.isfinite(out).all()
    for i in (*range(6), BATCH - 1):
        same(crowd.decode([i]), (out[[i]], lse[[i]]))
        same(crowd.decode([i], packed=True), (out[[i]], lse[[i]]))
        for tokens in (slice(0, 1), slice(1, 2)):
            same(crowd.decode([i], tokens), (out[[i], tokens], lse[[i], tokens]))
    few = [13, 7, 3, 2, 89]
    same(crowd.decode(few), (out[few], lse[few]))
    same(crowd.decode(packed=True), (out, lse))


def test_by_a_plan_for_any_lengths(crowd):
    wanted = crowd.decode()
    arguments, options = crowd.arguments(list(range(BATCH)))
    same(crowd.decode(plan=flashmla.plan_sparse_decode(*arguments, **options)), wanted)
    stale = options | {name: torch.flip(x, [0]) for name, x in options.items() if name.endswith("topk_length")}
    same(crowd.decode(plan=flashmla.plan_sparse_decode(*arguments, **stale)), wanted)


@pytest.mark.parametrize("num_splits", [2, 5, 100])  # more than there are units
def test_split_as_a_plan_says(crowd, num_splits):
    """Alone as in a crowd, whose rows are merged by other threads."""

    def decode(picks):
        arguments, options = crowd.arguments(picks)
        return crowd.decode(picks, plan=flashmla.plan_sparse_decode(*arguments, **options, num_splits=num_splits))

    together = decode(list(range(BATCH)))
    whole, _ = crowd.decode()
    torch.testing.assert_close(together[0].float(), whole.float(), rtol=2e-2, atol=5e-3)
    for picks in ([0], [3], [BATCH - 1], [5, 2, 40, 1]):
        same(decode(picks), [tensor[picks] for tensor in together])


def test_behind_any_padding(crowd):
    """Of the last selection: by -1 in the place of a length, in a tensor that is wider."""
    wanted = crowd.decode()
    kept = crowd.indices[-1], crowd.lengths[-1]
    counts = torch.arange(kept[0].shape[-1], device="cuda") < kept[1][:, None, None]
    padded = torch.where(counts, kept[0], torch.full_like(kept[0], -1))
    crowd.indices[-1] = torch.nn.functional.pad(padded, (0, 1000), value=-1)
    crowd.lengths[-1] = torch.full_like(kept[1], padded.shape[-1] + 1000)
    try:
        same(crowd.decode(), wanted)
    finally:
        crowd.indices[-1], crowd.lengths[-1] = kept
