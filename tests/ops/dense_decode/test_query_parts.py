"""q in two parts: the same bits as with all columns in one tensor, wherever the parts lie."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flashmla
from attention import same_bits
from buffers import PAGES, Layout
from ops.append_kv import oracle as formats
from ops.dense_decode import calls, strategies
from ops.dense_decode.case import Case, Layouts, make_data
from ops.dense_decode.oracle import D_V
from properties import share

# As a batched product of heads leaves the latent part, and a projection of all columns the RoPE part.
LAYOUTS = Layouts(q=Layout(order=(2, 0, 1, 3)), q_rope=Layout(gaps=(0, 0, 16)), kv_cache=PAGES)
PARTED = Case(
    s_q=3, h_q=20, page_size=16, num_blocks=60, max_blocks=30, lengths=(470, 0, 33), causal=True, given=("lse",),
    bad_pages=True, layouts=LAYOUTS, parted=True,
)  # fmt: skip
WITH_ROPE = ["bf16", *(name for name, fmt in formats.FORMATS.items() if strategies.has_columns(fmt, 576))]


def same_as_whole(case: Case, backend) -> None:
    numbers = make_data(case)
    found = calls.run(case, backend, numbers)
    same_bits(found, calls.run(case.but(parted=False), backend, numbers))
    calls.check_result(case, numbers, found)


@share(1 / 5)
@given(data=st.data())
def test_two_parts_give_the_bits_of_one(backend, data):
    d_qk = data.draw(st.sampled_from([n for n in strategies.GEOMETRIES[backend.name] if n > D_V[n]]))
    kv_format = data.draw(st.sampled_from([name for name in WITH_ROPE if name != "v32" or d_qk == 576]))
    case = data.draw(strategies.cases(backend, d_qk=d_qk, kv_format=kv_format, with_lse=True))
    same_as_whole(case.but(parted=True), backend)


@pytest.mark.parametrize("h_q", [20, 128])
@pytest.mark.parametrize("page_size", [16, 64, 7])
@pytest.mark.parametrize("kv_format", WITH_ROPE)
@pytest.mark.parametrize("invariant", [False, True], ids=["", "invariant"])
def test_every_way_to_read_a_cache(backend, kv_format, page_size, h_q, invariant):
    case = PARTED.but(kv_format=kv_format, page_size=page_size, h_q=h_q, batch_invariant=invariant)
    case = case if page_size > 7 else case.but(lengths=(200, 0, 33))
    same_as_whole(case if kv_format != "bf16" else case.but(layouts=replace(LAYOUTS, kv_cache=Layout())), backend)


@pytest.mark.parametrize("compute", ["default", "fp8"])
@pytest.mark.parametrize("page_size", [64, 16])
@pytest.mark.parametrize("d_qk", [576, 320])
def test_parts_that_are_codes(backend, d_qk, page_size, compute):
    codes = {"kv_format": "fp8", "q_dtype": "float8_e4m3fn", "descale_q": -0.007, "descale_k": 0.013}
    same_as_whole(PARTED.but(d_qk=d_qk, page_size=page_size, compute=compute, **codes), backend)


def test_variable_length_queries(backend):
    layouts = Layouts(q=Layout(order=(1, 0, 2)))
    same_as_whole(PARTED.but(cu_seqlens_q=(0, 3, 3, 5), total_q=6, layouts=layouts, kv_format="bf16"), backend)


def test_a_plan_serves_calls_with_q_in_one_part_and_in_two(backend):
    case = PARTED.but(plan="fresh", num_splits=3, layouts=Layouts())
    whole = calls.Tensors(case.but(parted=False), backend)
    parts = calls.Tensors(case, backend)
    found = [calls.decode(tensors, calls.make_plan(maker)) for tensors in (whole, parts) for maker in (whole, parts)]
    for other in found[1:]:
        same_bits(found[0], other)


@pytest.fixture
def parts():
    """(latent part, RoPE part, the other tensors) of a small call, and its q."""
    numbers = make_data(Case(dtype="float32", s_q=2, h_q=4, num_blocks=5, max_blocks=2, lengths=(5, 100)))
    q, *others = numbers.q, numbers.kv_cache, numbers.block_table, numbers.cache_seqlens
    return np.ascontiguousarray(q[..., :512]), np.ascontiguousarray(q[..., 512:]), others, q


def test_the_fast_way_is_taken(only_fast, parts):
    latent, rope, others, q = parts
    with only_fast():
        plan = flashmla.plan_decode(latent, *others, q_rope=rope)
    for given_plan in (None, plan):
        wanted = flashmla.dense_decode(q, *others, plan=given_plan)
        first = flashmla.dense_decode(latent, *others, q_rope=rope, plan=given_plan)
        with only_fast():
            again = flashmla.dense_decode(latent, *others, q_rope=rope, plan=given_plan)
        for found in (first, again):
            for one, other in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(one, other)


def test_a_prepared_call_reads_the_part_that_it_is_given(parts):
    latent, rope, others, q = parts
    decode = flashmla.prepare(flashmla.dense_decode, latent, *others, q_rope=rope)
    moved = q.copy()
    moved[..., 512:] = -rope
    for name, wanted in (("as prepared", q), ("another", moved)):
        given_parts = {} if name == "as prepared" else {"q_rope": -rope}
        for found, right in zip(decode(**given_parts), flashmla.dense_decode(wanted, *others), strict=True):
            np.testing.assert_array_equal(found, right)


def test_sizes_are_those_of_q_in_one_part(parts):
    latent, rope, others, q = parts
    for size in (flashmla.dense_decode_workspace_size, flashmla.plan_decode_size):
        assert size(latent, *others, q_rope=rope) == size(q, *others)


@pytest.mark.parametrize("function", ["dense_decode", "plan_decode", "dense_decode_workspace_size"])
@pytest.mark.parametrize("columns", [576, 320, 288, 160, 1088])
def test_all_columns_in_q_beside_its_rope_part_are_told_as_that(function, columns, parts):
    _, rope, others, _ = parts
    q = np.zeros((*rope.shape[:-1], columns), rope.dtype)
    sentence = rf"^q\.shape\[3\] is {columns} \(d_qk\); with q_rope it must be {D_V[columns]} \(d_v\)$"
    with pytest.raises(flashmla.InvalidArgumentError, match=sentence) as caught:
        getattr(flashmla, function)(q, *others, q_rope=rope[..., : columns - D_V[columns]])
    assert caught.value.status_name == "FLASHMLA_ERROR_SHAPE"


@pytest.mark.parametrize(("name", "columns"), [("q", 513), ("out", 256)])
def test_the_latent_part_and_out_have_the_same_columns(name, columns, parts):
    latent, rope, others, _ = parts
    given = {"q": latent, "out": np.zeros_like(latent)}
    given[name] = np.zeros((*latent.shape[:-1], columns), latent.dtype)
    extents = (given["out"].shape[-1], given["q"].shape[-1])
    sentence = r"^out\.shape\[3\] is {}, q\.shape\[3\] \(d_v\) is {}; they must be equal$".format(*extents)
    with pytest.raises(flashmla.InvalidArgumentError, match=sentence):
        flashmla.dense_decode(given["q"], *others, q_rope=rope, out=given["out"])


def test_a_record_tells_all_columns(parts):
    latent, rope, others, q = parts
    with flashmla.profile() as profile:
        flashmla.dense_decode(q, *others)
        flashmla.dense_decode(latent, *others, q_rope=rope)
    whole, in_parts = profile.records
    for fact in ("d_qk", "d_v", "bytes", "flop"):
        assert in_parts[fact] == whole[fact], fact
