"""compute "fp8": products of 8-bit codes where a GPU has them for the call, else what is computed by default."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import compare
import flashmla
from attention import same_bits
from ops.append_kv import oracle as formats
from ops.dense_decode import calls
from ops.dense_decode.case import ON_GPUS, Layouts, make_data
from ops.dense_decode.test_fp8 import BASE, CODED, OPTIONS

PRODUCTS = CODED.but(compute="fp8", page_size=64, num_blocks=30, max_blocks=9)
LONG = {"page_size": 128, "num_blocks": 157, "max_blocks": 157}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("d_qk", ON_GPUS)
def test_options(backend, options, d_qk):
    own = options | (LONG if "page_size" in options else {})
    calls.check(PRODUCTS.but(d_qk=d_qk, **own), backend)


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 63, 64, 65, 128, 191, 192, 193, 385])
def test_lengths_around_units(backend, length):
    """Tokens that are not attended are NaN."""
    calls.check(PRODUCTS.but(lengths=(length, 0, length + 1), s_q=2, h_q=64), backend)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("splits", [0, 40])
def test_many_short_pieces(backend, seed, splits):
    """Of one unit and a few, tile after tile in a block of threads."""
    lengths = tuple(int(n) for n in np.random.default_rng(seed).integers(0, 400, 700))
    case = PRODUCTS.but(lengths=lengths, s_q=1, h_q=4, plan="fresh", num_splits=splits, seed=seed)
    calls.check(case, backend)


@pytest.mark.parametrize(
    "case",
    [BASE.but(page_size=64), CODED, CODED.but(page_size=96), PRODUCTS.but(d_qk=160)],
    ids=["bfloat16 q", "small pages", "pages of 96", "no kernel"],
)
def test_where_there_are_none_results_are_the_default(backend, case):
    """With q in bfloat16, in pages that are no multiple of 64 tokens, of 160 columns; on a CPU anywhere."""
    for each in (case, PRODUCTS) if backend.name == "cpu" else (case,):
        numbers = make_data(each)
        wanted = calls.run(each.but(compute="default"), backend, numbers)
        same_bits(calls.run(each.but(compute="fp8"), backend, numbers), wanted)


# of the norm of out, as docs/caches.md has them, by the mean of keys and their number in a piece
ERRORS = {
    (0, 64): 3e-2, (0.25, 64): 1e-2, (1, 64): 6e-3,
    (0, 4096): 2e-2, (0.25, 4096): 3e-2, (1, 4096): 8e-2,
    (0, 16_384): 1.3e-2, (0.25, 16_384): 1.3e-1, (1, 16_384): 3e-1,
}  # fmt: skip


@pytest.mark.parametrize(("mean", "tokens"), ERRORS)
def test_errors_that_are_promised(backend, mean, tokens):
    """Of keys N(mean, 1 / 4), in one piece."""
    case = PRODUCTS.but(
        lengths=(tokens,), s_q=1, h_q=16, causal=False, bad_pages=False, descale_q=None, descale_k=None,
        out_dtype="float32", layouts=Layouts(), plan="fresh", num_splits=1, num_blocks=300, max_blocks=300,
    )  # fmt: skip
    numbers = make_data(case)
    shape = numbers.kv_cache.shape
    keys = mean + np.random.default_rng(1).standard_normal(shape, np.float32) / 2
    numbers = replace(numbers, kv_cache=formats.encoded(keys, 1.0).astype(np.uint8).reshape(shape))
    out, _ = calls.reference(case, numbers)
    assert compare.relative_error(calls.run(case, backend, numbers).out, out) <= ERRORS[mean, tokens]


def test_one_plan_is_of_both(backend):
    case = PRODUCTS.but(plan="fresh", num_splits=3)
    tensors = calls.Tensors(case, backend)
    plan = calls.make_plan(tensors)
    for compute in ("default", "fp8"):
        tensors.case = case.but(compute=compute)
        calls.check_result(tensors.case, tensors.data, calls.decode(tensors, plan))


def test_a_name_that_there_is_not(backend):
    tensors = calls.Tensors(BASE.but(route="numpy", given=(), layouts=Layouts()), backend)
    for name in ("exact", "FP8", 1, None, []):
        with pytest.raises(flashmla.InvalidArgumentError, match=r"^compute is .* must be one of \['default', 'fp8'\]"):
            flashmla.dense_decode(*tensors.package_inputs(), kv_format="fp8", compute=name)
