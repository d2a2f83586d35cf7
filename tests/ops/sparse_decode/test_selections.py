"""Edges of what can be selected: counts, lengths, slots, pages, heads, formats, and values that make no sense."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import c_abi
from attention import Result, same_bits
from buffers import DTYPES, POISON, Guarded, Layout, Pages
from ops.append_kv import oracle as formats
from ops.append_kv.strategies import FORMATS
from ops.sparse_decode import calls
from ops.sparse_decode.case import Cache, SparseCase, SparseLayouts
from ops.sparse_decode.data import Data, Selected, make_data
from ops.sparse_decode.relations import EXTRA, MIXED, STEP, TWOFOLD
from ops.sparse_decode.strategies import formats_on, skip_unless_read

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1


def columns_of(kv_format: str) -> int:
    fmt = formats.FORMATS.get(kv_format)
    return fmt.columns if fmt else 576


@pytest.mark.parametrize("kv_format", FORMATS)
@pytest.mark.parametrize("page_size", [1, 2, 53, 64, 576])
def test_every_format_in_every_page_size(backend, kv_format, page_size):
    skip_unless_read(backend, kv_format)
    main = Cache(kv_format, num_blocks=max(2, 200 // page_size), page_size=page_size, topk=150, lengths=(150, 64, 0))
    case = SparseCase(main=main, d_qk=columns_of(kv_format), batch=3, s_q=2, h_q=17, given=("lse",), sink="wild")
    calls.check(case, backend)
    extra = main.but(page_size=53, num_blocks=3, topk=70, lengths=(1, 70, 65), cache_layout=Pages(gaps=(3,)))
    calls.check(case.but(extra=extra, cache_layout=Pages(gaps=(1,)), out_dtype="float32"), backend)


@pytest.mark.parametrize("kv_format", FORMATS)
def test_pairs_of_formats(backend, kv_format):
    skip_unless_read(backend, kv_format)
    d_qk = columns_of(kv_format)
    others = [name for name in formats_on(backend) if "bf16" in (name, kv_format) or columns_of(name) == d_qk]
    for other in others:
        main = Cache(kv_format, num_blocks=4, topk=100, lengths=(100, 3))
        extra = Cache(other, num_blocks=90, page_size=2, topk=60, lengths=(0, 60))
        columns = d_qk if other == "bf16" else columns_of(other)
        case = SparseCase(main=main, extra=extra, d_qk=columns, batch=2, s_q=2, h_q=64, given=("lse",), sink="some")
        calls.check(case, backend)
        calls.check(
            case.but(plan="fresh", num_splits=3, h_q=128, paired=True, sink="wild", out_dtype="float32"), backend
        )
        calls.check(case.but(plan="stale", lengths=(0, 100), extra=extra.but(lengths=(60, 1))), backend)
        calls.check(case.but(h_q=5, topk=0, lengths=None, batch_invariant=True), backend)


@pytest.mark.parametrize("h_q", [*range(1, 18), 31, 32, 33, 48, 63, 64, 65, 96, 127, 128])
def test_every_number_of_heads(backend, h_q):
    for kv_format in ("bf16", "v32"):
        for s_q in (1, 2, 3, 4):
            case = STEP.but(h_q=h_q, s_q=s_q, kv_format=kv_format, topk=70, lengths=(70, 9), paired=s_q % 2 == 0)
            calls.check(case, backend)


@pytest.mark.parametrize("topk", [0, 1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1000, 2048])
def test_every_kind_of_topk(backend, topk):
    for case in (STEP.but(lengths=None), STEP, TWOFOLD, TWOFOLD.but(extra=EXTRA.but(lengths=None)), MIXED):
        calls.check(case.but(topk=topk), backend)
    calls.check(TWOFOLD.but(extra=EXTRA.but(topk=topk, lengths=None)), backend)
    calls.check(TWOFOLD.but(topk=topk, lengths=None, extra=EXTRA.but(topk=0, lengths=None)), backend)


@pytest.mark.parametrize("length", [INT32_MIN, -1, 0, 1, 63, 64, 65, 129, 130, 299, 300, 301, INT32_MAX])
def test_every_kind_of_length(backend, length):
    for lengths in ((length, 300), (0, length), (length, length)):
        calls.check(STEP.but(lengths=lengths), backend)
        calls.check(TWOFOLD.but(lengths=lengths), backend)
        calls.check(TWOFOLD.but(extra=EXTRA.but(lengths=lengths)), backend)


def with_indices(case: SparseCase, values, prefix: str = ""):
    """The numbers of the case with these indices in turn."""
    numbers = make_data(case)
    one = numbers.caches[prefix]
    indices = np.resize(np.array(values, one.indices.dtype), one.indices.shape)
    return replace(numbers, caches=numbers.caches | {prefix: replace(one, indices=indices)})


@pytest.mark.parametrize("wide", [False, True], ids=["int32", "int64"])
@pytest.mark.parametrize("kv_format", ["bf16", "v32"])
def test_nothing_valid_is_an_empty_row(backend, kv_format, wide):
    """Whatever the sink is; and not a byte of the cache is used: it is NaN."""
    slots = STEP.main.slots
    values = [-1, slots, slots + 1, -slots, INT32_MIN, INT32_MAX]
    values += [2**32, 2**32 + 5, -(2**32) + 5, 2**63 - 1, -(2**63)] if wide else []
    facts = {"kv_format": kv_format, "index_dtype": "int64" if wide else "int32"}
    none = EXTRA.but(kv_format=kv_format, topk=0, lengths=None)
    cases = STEP, STEP.but(sink="wild"), STEP.but(topk=3000, lengths=None), STEP.but(extra=none)
    for case in (one.but(**facts) for one in cases):
        numbers = with_indices(case, values)
        numbers.caches[""].kv_cache.view(np.uint8)[...] = POISON
        result = calls.run(case, backend, numbers)
        assert not result.out.any()
        assert np.isposinf(result.lse).all()


def test_int64_beyond_32_bits_is_no_slot(backend):
    """What would be a slot if its upper half were cut off."""
    case = STEP.but(index_dtype="int64", outside=0.0)
    numbers = make_data(case)
    calls.check_result(case, numbers, calls.run(case, backend, numbers))
    wrong = [n + high for n in range(5) for high in (2**32, 2**33, -(2**32), 2**62, -(2**63))]
    numbers = with_indices(case, [*wrong, 3])
    numbers.caches[""].kv_cache.reshape(-1, 576)[:3] = np.nan
    numbers.caches[""].kv_cache.reshape(-1, 576)[3] = 1
    numbers.caches[""].kv_cache.reshape(-1, 576)[4:] = np.nan
    calls.check_result(case, numbers, calls.run(case, backend, numbers))


def test_one_slot_many_times(backend):
    case = STEP.but(topk=5000, lengths=(5000, 77), sink=None)
    numbers = make_data(case)
    slot = numbers.caches[""].indices[0, 0, 0] = 7
    numbers.caches[""].kv_cache.reshape(-1, 576)[slot] = np.linspace(-1, 1, 576)
    numbers.caches[""].indices[...] = slot
    result = calls.run(case, backend, numbers)
    calls.check_result(case, numbers, result)
    np.testing.assert_allclose(result.out[0, 0, 0].astype(np.float32), np.linspace(-1, 1, 576)[:512], atol=2.0**-8)


@pytest.mark.parametrize("topk", [9216, 9217, 20_000])
def test_selections_as_long_as_a_context(backend, topk):
    """More than a tile's sums in float32, and cut into parts."""
    for kv_format in ("bf16", "v32"):
        main = Cache(kv_format, num_blocks=320, topk=topk)
        calls.check(SparseCase(main=main, h_q=3, given=("lse",), sink="some"), backend)


@pytest.mark.parametrize(
    "case",
    [
        STEP.but(batch=0, lengths=()),
        STEP.but(s_q=0),
        TWOFOLD.but(batch=0, lengths=(), extra=EXTRA.but(lengths=())),
        MIXED.but(total_q=0),
        MIXED.but(cu_seqlens_q=(0,) * 5),
    ],
    ids=["batch 0", "s_q 0", "both", "total_q 0", "no query tokens"],
)
def test_empty_calls_write_nothing(backend, case):
    calls.run(case.but(given=("out", "lse", "workspace")), backend)


@pytest.mark.parametrize("form", ["one request", "many requests", "packed"])
def test_more_query_tokens_than_65535(backend, form):
    """Each attends one token at most, so a result is that token's own, but for the reciprocal of a sum that is 1."""
    count, rng = 70_000, np.random.default_rng(1)
    case = SparseCase(main=Cache(num_blocks=2, topk=1), d_qk=512, h_q=1, given=("lse",), out_dtype="float32")
    offsets = tuple(range(count + 1)) if form == "packed" else None
    case = case.but(**{"one request": {"s_q": count}}.get(form, {"batch": count}))
    case = case.but(cu_seqlens_q=offsets, total_q=count if offsets else 0)
    q = rng.standard_normal((count, 1, 512), np.float32).astype(DTYPES["bfloat16"])
    kv_cache = rng.standard_normal((128, 512), np.float32).astype(DTYPES["bfloat16"])
    slots = rng.integers(-1, 128, count).astype(np.int32)
    caches = {"": Selected(kv_cache.reshape(2, 64, 1, 512), slots.reshape(*case.tokens, 1), None)}
    given = None if offsets is None else np.array(offsets, np.int32)
    result = calls.run(case, backend, Data(q.reshape(case.shapes()["q"]), caches, None, given))
    rows = np.where(slots[:, None] < 0, 0, kv_cache[slots].astype(np.float32))
    np.testing.assert_allclose(result.out.reshape(count, 512), rows, rtol=2.0**-21)
    lse = np.where(slots < 0, np.inf, (q[:, 0].astype(np.float64) * rows).sum(1) * 512**-0.5)
    np.testing.assert_allclose(result.lse.reshape(-1), lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("offsets", [(9, 3, 0, 5, 2), (-5, INT32_MAX, -1, 3, 4), (INT32_MIN,) * 5, (0, 8, 0, 8, 0)])
def test_offsets_that_make_no_sense_stay_inside(backend, offsets):
    """Rows may hold anything then, but nothing outside the tensors is touched."""
    tensors = calls.Tensors(MIXED, backend)
    tensors.guarded["cu_seqlens_q"] = Guarded(tensors.adapter, (5,), "int32", values=np.array(offsets, np.int32))
    out, lse = tensors.place("out"), tensors.place("lse")
    call = tensors.c_call(out=out, lse=lse)
    workspace = tensors.give_scratch(call)
    assert call.run() == 0, c_abi.last_error()
    for name, written in (("out", out), ("lse", lse), ("workspace", workspace)):
        written.check_only_elements_written(name)
    for name, read in tensors.guarded.items():
        read.check_unchanged(name)


def run_changed(backend, change, case: SparseCase = STEP, numbers: Data | None = None) -> Result:
    """A case by the C ABI, after `change` of the call."""
    tensors = calls.Tensors(case, backend, numbers)
    out, lse = tensors.place("out"), tensors.place("lse")
    call = tensors.c_call(out=out, lse=lse)
    change(call)
    scratch = tensors.give_scratch(call)
    assert call.run() == 0, c_abi.last_error()
    del scratch  # in use until here
    return Result(out.values(), lse.values())


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_query_tokens_and_requests_may_share_indices(backend, axes):
    """Strides of 0 are as if they were written out."""
    case = STEP.but(lengths=None)
    numbers = make_data(case)
    indices = numbers.caches[""].indices
    for axis in axes:
        indices[...] = np.take(indices, [0], axis)

    def change(call):
        call.tensor("indices").strides = [0 if axis in axes else n for axis, n in enumerate((600, 300, 1))]

    same_bits(calls.run(case, backend, numbers), run_changed(backend, change, case, numbers))


def test_layouts_of_everything_at_once(backend):
    """Permuted and with gaps, each tensor."""
    main = STEP.main.but(cache_layout=Layout((1, 0, 2, 3), (3, 1, 0)), indices_layout=Layout((1, 0, 2), (5, 3), 1))
    extra = EXTRA.but(cache_layout=Layout((), (1, 2, 0), 5), indices_layout=Layout((0, 1, 2), (1, 1)))
    layouts = SparseLayouts(
        q=Layout((2, 0, 1, 3), (1, 0, 8)),
        out=Layout((1, 2, 0, 3), (0, 3, 1), 1),
        lse=Layout((2, 1, 0), (1, 1, 3), 1),
        attn_sink=Layout(offset=1),
        scratch=Layout(offset=3),
    )
    for dtype in ("bfloat16",) if backend.name == "gpu" else backend.dtypes:
        case = TWOFOLD.but(main=main, extra=extra, layouts=layouts, dtype=dtype, index_dtype="int64")
        same_bits(calls.run(case, backend), calls.run(case.but(layouts=SparseLayouts()), backend))
        calls.check(case, backend)


def test_a_caller_of_the_struct_without_a_tail(backend):
    """Its params struct ends with `stream`."""
    same_bits(
        calls.run(STEP, backend),
        run_changed(backend, lambda call: setattr(call, "struct_size", call.first_sizeof)),
    )


def test_a_cache_without_a_kv_format_is_as_it_is(backend):
    """FLASHMLA_KV_BF16 is 0."""

    def change(call):
        del call.fields["kv_format"]

    same_bits(calls.run(STEP, backend), run_changed(backend, change))
