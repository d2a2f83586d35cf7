"""Which kernel a dense_decode runs, forced or not, and how many row blocks its tiles have, on a stub of CUDA 12.0."""

from __future__ import annotations

import re

import pytest

import c_abi
from ops.dense_decode.case import OF_WIDER, ON_GPUS
from ops.dense_decode.oracle import D_V
from ops.dense_decode.shape_only import STEP
from stub_driver.launches import decoded

FITTING = [
    ("dense_decode_bf16_576_cluster1", {}),
    ("dense_decode_bf16_576_cluster1_pages", {}),
    ("dense_decode_bf16_576_cluster2_pages", {}),
    ("dense_decode_bf16_576_cluster1_pages", {"page_size": 16}),
    ("dense_decode_fp16_512_cluster1_pages", {"dtype": "float16", "d_qk": 512}),
    ("dense_decode_bf16_576_cluster1_pages_invariant", {"batch_invariant": True}),
    ("dense_decode_bf16_576_cluster1_pages", {"page_size": 1}),
    ("dense_decode_bf16_576_cluster1_gather", {"page_size": 64}),
    ("dense_decode_bf16_576_cluster1_fp8", {"kv_format": "fp8", "compute": "fp8"}),
    ("dense_decode_bf16_576_cluster1_fp8_qgmma", {"kv_format": "fp8", "compute": "fp8", "q_dtype": "uint8"}),
    ("dense_decode_fp16_320_cluster1_gather", {"dtype": "float16", "d_qk": 320, "page_size": 3}),
    ("dense_decode_bf16_160_cluster1_fp8", {"d_qk": 160, "kv_format": "fp8", "compute": "fp8", "q_dtype": "uint8"}),
]


@pytest.mark.parametrize(("name", "changes"), FITTING)
def test_a_forced_kernel_runs_with_tiles_of_its_own(cuda_12_0, name, changes):
    case = STEP.but(**changes)
    ran = cuda_12_0.run(f"decode({case!r}, plan=plan({case!r})); decode({case!r})", force_kernel=name)
    assert [line[:2] for line in ran.told] == [[0, ""]] * 3
    assert [line[3] for line in ran.told[1:]] == [name] * 2
    cluster = int(name.partition("_cluster")[2][0])
    for launch in ran.launches():
        assert decoded(launch)["cluster"] == cluster


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("dense_decode_bf16_576_cluster2", {"page_size": 16}, "it is for pages of 64 tokens"),
        ("dense_decode_bf16_576_cluster2", {"dtype": "float16"}, "it is for another dtype"),
        ("dense_decode_bf16_576_cluster2", {"d_qk": 512}, "it is for other head dimensions"),
        ("dense_decode_bf16_576_cluster2", {"h_q": 1}, "it is for more than 64 query rows a KV head"),
        ("dense_decode_bf16_576_cluster2_invariant", {}, "it is for batch-invariant calls"),
        (
            "dense_decode_bf16_576_cluster1_fp8_qgmma",
            {"kv_format": "fp8"},
            "it is for calls that permit what it rounds",
        ),
        (
            "dense_decode_bf16_576_cluster2",
            {"batch_invariant": True},
            "it is for calls that are not batch invariant",
        ),
        ("dense_decode", {}, "which is no dense_decode kernel of this library"),
    ],
)
def test_a_forced_kernel_that_does_not_fit_is_refused(cuda_12_0, name, changes, words):
    ran = cuda_12_0.run(f"decode({STEP.but(**changes)!r})", force_kernel=name)
    status, sentence, depth, _ = ran.told[0]
    assert (status, depth) == (c_abi.constant("ERROR_UNSUPPORTED"), 0)
    assert sentence.startswith(f'FLASHMLA_FORCE_KERNEL is "{name}", ')
    assert sentence.endswith(words)
    assert ran.launches() == []


def test_the_forced_kernel_is_that_of_the_last_reading(cuda_12_0):
    set_it = "import os; os.environ['FLASHMLA_FORCE_KERNEL'] = 'dense_decode_bf16_576_cluster1'"
    unset_it = "del os.environ['FLASHMLA_FORCE_KERNEL']"
    ran = cuda_12_0.run(
        f"read = lib.flashmla_read_environment; decode(); {set_it}; decode(); read(); decode(); "
        f"{unset_it}; decode(); read(); decode()"
    )
    assert [line[3][-8:] for line in ran.told] == ["cluster2", "cluster2", "cluster1", "cluster1", "cluster2"]


BLOCKS = [  # query tokens, heads: row blocks of a tile
    ((1, 1), 1),
    ((1, 64), 1),
    ((4, 16), 1),
    ((1, 65), 2),
    ((5, 16), 2),
    ((2, 128), 1),
    ((2**25, 8), 2),
    ((3, 64), 1),
    ((7, 33), 1),
    ((4, 128), 1),
    ((9, 64), 1),
    ((12, 128), 2),
    ((31, 64), 1),  # 8 of 132 processors are left over
    ((15, 64), 2),  # 12
]


def test_two_blocks_share_a_stream_and_more_where_they_are_not_in_step(cuda_12_0):
    cases = [STEP.but(s_q=s_q, h_q=h_q, lengths=(1,)) for (s_q, h_q), _ in BLOCKS]
    ran = cuda_12_0.run(f"for case in {cases!r}: decode(case)")
    assert {line[0] for line in ran.told} == {0}
    assert [line[3][-8:] for line in ran.told] == [f"cluster{cluster}" for _, cluster in BLOCKS]


PAGES = [(1, "gather"), (8, "gather"), (17, "gather"), (24, "gather"), (16, "pages"), (48, "pages"), (80, "pages")]


@pytest.mark.parametrize(("page_size", "loads"), PAGES)
def test_rows_of_small_boxes_are_gathered(cuda_12_0, page_size, loads):
    """By a block alone: its rows are not shared. Batch-invariant kernels load boxes of any size."""
    case = STEP.but(page_size=page_size)
    ran = cuda_12_0.run(f"for case in {[case, case.but(batch_invariant=True)]!r}: decode(case)")
    cluster = 1 if loads == "gather" else 2
    assert [line[3].partition("_cluster")[2] for line in ran.told] == [f"{cluster}_{loads}", "2_pages_invariant"]


COMPUTED = [  # page size, compute, q: how the kernel's name ends
    (64, "fp8", "uint8", "_cluster1_fp8_qgmma"),
    (256, "fp8", "int8", "_cluster1_fp8_qgmma"),
    (64, "fp8", None, "_cluster1_fp8"),
    (64, "default", "uint8", "_cluster1_fp8"),
    (32, "fp8", "uint8", "_cluster1_gather_fp8"),
    (96, "fp8", "uint8", "_cluster1_gather_fp8"),
]


@pytest.mark.parametrize("d_qk", ON_GPUS)
def test_products_of_codes_are_taken_where_they_are_permitted(cuda_12_0, d_qk):
    """Of codes of q, in pages of whole units; of the narrowest rows none is."""
    cases = [
        STEP.but(d_qk=d_qk, kv_format="fp8", page_size=page_size, compute=compute, q_dtype=q_dtype)
        for page_size, compute, q_dtype, _ in COMPUTED
    ]
    ran = cuda_12_0.run(f"for case in {cases!r}: decode(case)")
    assert {line[0] for line in ran.told} == {0}
    ends = [line[3].partition(f"_{OF_WIDER.get(d_qk, d_qk)}")[2] for line in ran.told]
    missing = "_qgmma" if D_V[d_qk] == 128 else ""
    assert ends == [end.removesuffix(missing) for *_, end in COMPUTED]


def test_codes_of_q_are_two_an_element(cuda_12_0):
    """Of a map, and so are the strides of its rows."""
    case = STEP.but(kv_format="fp8", descale_k=2.0)
    ran = cuda_12_0.run(f"decode({case!r}); decode({case.but(q_dtype='int8', descale_q=0.5)!r})")
    maps = [call for call in ran.of("cuTensorMapEncodeTiled") if len(call["extents"]) == 5]
    for numbers, codes, elements in zip(maps[:2], maps[2:], (256, 32), strict=True):  # the latent and the RoPE part
        assert codes["extents"] == [elements, *numbers["extents"][1:]]
        strides = numbers["strides"]  # that of KV heads, of which there is one, is any
        assert codes["strides"] == [strides[0] // 2, strides[1] // 2, strides[2], strides[3] // 2]
        assert codes["box"] == numbers["box"]
    assert [one["address"] - maps[0]["address"] for one in maps] == [0, 2 * 512, 0, 512]
    told = [decoded(launch) for launch in ran.launches()[1::3]]
    assert [one["q_coded"] for one in told] == [0, 1]
    assert [one["descale_q"] != 0 for one in told] == [False, True]


@pytest.mark.parametrize("s_q", [2, 3, 4])
def test_blocks_are_not_in_step(cuda_12_0, s_q):
    """With queries of variable length, with given splits, or where the columns of all KV heads leave much over. Where
    no table is long enough to be split they are, whatever is asked for; batch-invariant work is cut as other work is.
    """
    alike = STEP.but(s_q=s_q, h_q=128, lengths=(1,))
    varlen = alike.but(cu_seqlens_q=(0, s_q), total_q=s_q)
    uneven = alike.but(h_q=128 * 23, h_kv=23)
    split, invariant = alike.but(num_splits=2), alike.but(batch_invariant=True)
    ran = cuda_12_0.run(
        f"for case in {[alike, varlen, uneven, invariant]!r}: decode(case)\n"
        f"for case in {[split, split.but(max_blocks=3)]!r}: decode(case, plan=plan(case))"
    )
    clusters = [re.search(r"_cluster(\d)", line[3])[1] for line in ran.told if len(line) > 3]
    assert clusters == ["1", "2", "2", "1", "2", "1"]
