"""What sparse_decode asks the driver to launch, against the contract, on a stub of CUDA 12.0."""

from __future__ import annotations

import random

import numpy as np
import pytest

import schedule
from attention_launches import is_split
from buffers import Layout, Pages
from ops.append_kv import oracle as formats
from ops.sparse_decode import launches as expected
from ops.sparse_decode.case import Cache, SparseCase, SparseLayouts
from ops.sparse_decode.shape_only import STEP
from stub_driver.launches import CLUSTER, PROCESSORS, QUIET, decoded, family, map_addresses, same

FORMATS = ("bf16", *formats.SCALED)
EXTRA = Cache(num_blocks=40, page_size=7, topk=130)
MANY = STEP.but(batch=40)  # query tokens: where rows are codes they have pairs of CTAs


def in_format(case: SparseCase, kv_format: str) -> SparseCase:
    """The case with its caches in a format."""
    columns = formats.FORMATS[kv_format].columns if kv_format in formats.FORMATS else case.d_qk
    caches = {
        name: cache.but(kv_format=kv_format, cache_layout=Pages() if kv_format != "bf16" else cache.cache_layout)
        for name, cache in (("main", case.main), ("extra", case.extra))
        if cache
    }
    return case.but(d_qk=columns, **caches)


def check_call(case: SparseCase, launches: list[dict], maps: dict[int, dict], processors=PROCESSORS) -> None:
    """The launches of one call, behind that of its plan where it has one."""
    call = expected.call_of(case, processors)
    split, parts = is_split(call.tiling), call.tiling.num_parts
    selections = ["", "extra_"] if expected.is_apart(case) else [None]
    plan = (case.plan != "none" and not expected.is_apart(case)) or expected.makes_schedule(case, processors)
    families = [*["plan"] * plan, *["sparse_decode"] * len(selections), *["combine"] * split]
    assert [family(launch["kernel"]) for launch in launches] == families
    if plan:
        assert launches[0]["grid"] == [1, 1, 1]
        same(decoded(launches[0]), call.plan_params())
    for which, decode in zip(selections, launches[plan:], strict=False):
        kernel, blocks = expected.kernel_of(case, which or "", processors), call.tiling.cluster
        assert decode["kernel"].startswith(f"flashmla_{kernel}_kernel_")
        assert decode["grid"] == [min(processors // blocks, parts // len(selections)) * blocks, 1, 1]
        assert decode["attributes"][CLUSTER] == (2 if "pair" in kernel else 1)
        found = decoded(decode)
        same(found, expected.decode_params(case, processors, which))
        for name, wanted in call.q_maps().items():
            same(maps[found[name]], wanted)
        check_known_cuts(case, found, processors)
    if split:
        assert launches[-1]["kernel"].startswith("flashmla_combine_bf16_512_")
        assert launches[-1]["grid"] == [call.combine_grid(), 1, 1]
        same(decoded(launches[-1]), call.join_params())
        check_known_cuts(case, decoded(launches[-1]), processors)


def check_known_cuts(case: SparseCase, params: dict, processors: int) -> None:
    """What a kernel makes of its parameters is what the schedule says, if it need not be read."""
    wanted, found = expected.known_cuts(case, processors), schedule.known_cuts(params)
    assert (wanted is None) == (found is None)
    if wanted is not None:
        np.testing.assert_array_equal(found, wanted)


def formats_fit(one: str, other: str) -> bool:
    """Whether caches of both may be of one call."""
    return "bf16" in (one, other) or formats.FORMATS[one].columns == formats.FORMATS[other].columns


def draw_cache(draw: random.Random, kv_format: str, batch: int, axes: int) -> Cache:
    page_size = draw.choice((1, 2, 48, 64, 1000))
    gaps = (draw.choice((0, 1, 3)),)
    layout = Pages(gaps=gaps) if kv_format != "bf16" else Layout((0, 1, 2, 3), (*gaps, draw.choice((0, 2)), 0))
    return Cache(
        kv_format,
        num_blocks=draw.choice((1, 2, 5000)),
        page_size=page_size if kv_format != "model1" else 2 * page_size,  # a page is a multiple of 16 bytes
        topk=draw.choice((0, 1, 64, 65, 2048, 100_000)),
        lengths=draw.choice((None, None, (1,) * batch)),
        cache_layout=layout,
        indices_layout=Layout(tuple(range(axes + 1)), tuple(draw.choice((0, 0, 3)) for _ in range(axes))),
    )


def random_case(draw: random.Random) -> SparseCase:
    """Shapes at the edges of blocks of heads and of units, extents of 1 among them; tensors that are not compact."""
    kv_format = draw.choice(FORMATS)
    fitting = [name for name in FORMATS if formats_fit(name, kv_format)]
    batch, s_q = draw.choice((1, 2, 7, 150)), draw.choice((1, 2, 3, 70))
    varlen = draw.random() < 0.4
    axes = 1 if varlen else 2
    extra_format = draw.choice([kv_format, *fitting])
    scaled = [name for name in (kv_format, extra_format) if name != "bf16"]
    columns = formats.FORMATS[scaled[0]].columns if scaled else draw.choice((576, 512))
    gaps = [tuple(draw.choice((0, 0, 1, 3)) for _ in range(axes + 1)) for _ in range(3)]
    num_splits, batch_invariant = draw.choice((0, 0, 0, 1, 2, 32)), draw.random() < 0.3
    return SparseCase(
        plan="fresh" if num_splits else draw.choice(("none", "fresh")),
        num_splits=num_splits,
        plan_format=draw.choice((None, None, "bf16", "v32")),
        batch_invariant=batch_invariant,
        main=draw_cache(draw, kv_format, batch, axes),
        extra=draw_cache(draw, extra_format, batch, axes) if draw.random() < 0.4 else None,
        d_qk=columns,
        parted=columns != 512 and draw.random() < 0.5,
        batch=batch,
        s_q=s_q,
        h_q=draw.choice((1, 3, 16, 63, 64, 65, 128)),
        index_dtype=draw.choice(("int32", "int64")),
        sink=draw.choice((None, "some")),
        softmax_scale=draw.choice((None, 0.1)),
        given=draw.choice(((), ("lse",))),
        cu_seqlens_q=(0,) * (batch + 1) if varlen else None,
        total_q=draw.choice((1, 2, 1000)) if varlen else 0,
        out_dtype=draw.choice((None, "float32")),
        lse_base2=draw.random() < 0.5,
        empty_lse_minus=draw.random() < 0.5,
        layouts=SparseLayouts(
            q=Layout((*draw.sample(range(axes + 1), axes + 1), axes + 1), gaps[0]),
            q_rope=Layout((*draw.sample(range(axes + 1), axes + 1), axes + 1), gaps[1]),
            out=Layout((*draw.sample(range(axes + 1), axes + 1), axes + 1), gaps[1]),
            lse=Layout(tuple(draw.sample(range(axes + 1), axes + 1)), gaps[2]),
        ),
    )


@pytest.fixture(scope="module")
def drawn(cuda_12_0):
    """Many calls in one process: with a plan of their own, or with one that was made before."""
    draw = random.Random(0)
    cases = [random_case(draw) for _ in range(300)]
    given = "plan_sparse(case) if case.plan != 'none' else None"
    ran = cuda_12_0.run(f"for case in {cases!r}:\n  sparse_decode(case, plan={given})\n")
    assert {tuple(line[:3]) for line in ran.told} == {(0, "", 0)}
    kernels = [line[3] for line in ran.told if len(line) > 3]
    assert kernels == [expected.kernel_of(case) for case in cases]
    return cases, ran


def test_every_drawn_call_launches_what_the_contract_says(drawn):
    cases, ran = drawn
    maps = {call["map"]: call for call in ran.of("cuTensorMapEncodeTiled")}
    launches = iter(ran.launches())
    for case in cases:
        more = is_split(expected.call_of(case, PROCESSORS).tiling) + expected.is_apart(case)
        plans = (case.plan != "none") + expected.makes_schedule(case, PROCESSORS)
        apart_with_plan = expected.is_apart(case) and case.plan != "none"  # which has a schedule that it does not use
        check_call(case, [next(launches) for _ in range(1 + more + plans)][apart_with_plan:], maps)
    assert next(launches, None) is None


def test_drawn_calls_know_their_cuts_and_do_not(drawn):
    """In each way that there is."""
    known = [expected.known_cuts(case, PROCESSORS) for case in drawn[0]]
    inside = [cuts is not None and (cuts[:, 1] > 0).any() for cuts in known]
    whole = [cuts is not None and not (cuts[:, 1] > 0).any() for cuts in known]
    made = [expected.makes_schedule(case, PROCESSORS) for case in drawn[0]]
    assert min(map(sum, (inside, whole, made))) > 5


def test_every_drawn_call_is_quiet_and_leaves_the_context_stack_as_it_was(drawn):
    _, ran = drawn
    assert set(ran.names()) <= QUIET
    assert all(call["result"] == 0 for call in ran.calls)
    assert ran.names().count("cuCtxPushCurrent_v2") == ran.names().count("cuCtxPopCurrent_v2") > 0


@pytest.mark.parametrize("h_q", [1, 64, 65, 128])
@pytest.mark.parametrize("processors", [1, 78, 132])
def test_the_grid_follows_the_processors(cuda_12_0, h_q, processors):
    case = STEP.but(h_q=h_q)
    ran = cuda_12_0.run(f"sparse_decode({case!r})", processors=processors)
    maps = {call["map"]: call for call in ran.of("cuTensorMapEncodeTiled")}
    check_call(case, ran.launches(), maps, processors)


@pytest.mark.parametrize("kv_format", FORMATS)
def test_a_run_of_a_prepared_call_is_the_same_launches_elsewhere(cuda_12_0, kv_format):
    lengths = (1,) * MANY.batch  # so that there is a schedule to make
    case = in_format(MANY.but(extra=EXTRA.but(page_size=8), sink="some", lengths=lengths), kv_format)
    ran = cuda_12_0.run(f"made = prepare_sparse({case!r}); run_sparse(made); run_sparse(made, 4096, stream=9)")
    assert [line[:3] for line in ran.told] == [[0, "", 0]] * 3
    first, again = ran.launches()[:3], ran.launches()[3:]
    assert {launch["stream"] for launch in again} == {9}
    for before, after in zip(first, again, strict=True):
        old, new = decoded(before), decoded(after)
        pointers = {name for name, value in old.items() if value != new[name]} - {"tma_q", "tma_q_rope"}
        assert all(new[name] == old[name] + 4096 for name in pointers)
        assert {"plan": "cuts", "combine": "sink"}.get(family(before["kernel"]), "extra_indices") in pointers
    old, new = map_addresses(first[1]), map_addresses(again[1])
    assert new["tma_q"] == old["tma_q"] + 4096
    assert new["tma_q_rope"] == (old["tma_q_rope"] + 4096 if case.d_qk == 576 else 0)


@pytest.mark.parametrize("case", [STEP, STEP.but(topk=64)], ids=["split", "whole"])
def test_calls_with_a_plan_launch_no_scheduler(cuda_12_0, case):
    """One plan serves the calls of a step, whatever their caches and formats are, and runs of prepared calls."""
    planned = case.but(plan="fresh")
    others = [planned, in_format(planned, "v32").but(plan_format="bf16")]
    others += [planned.but(num_blocks=7, index_dtype="int64", sink="some")]
    ran = cuda_12_0.run(
        f"made = plan_sparse({planned!r}, stream=3)\nfor case in {others!r}:\n  sparse_decode(case, plan=made)\n"
        f"prepared = prepare_sparse({planned!r}, plan=made)\n"
        f"later = run_plan_sparse(prepare_plan_sparse({planned!r}), 4096)\n"
        f"run_sparse(prepared); run_sparse(prepared, plan=later)"
    )
    assert {tuple(line[:3]) for line in ran.told} == {(0, "", 0)}
    split = is_split(expected.call_of(case, PROCESSORS).tiling)
    call = ["sparse_decode", *["combine"] * split]
    families = [family(launch["kernel"]) for launch in ran.launches()]
    assert families == ["plan", *call * 3, "plan", *call * 2]
    assert ran.launches()[0]["stream"] == 3
    first, again = (decoded(ran.launches()[-i * len(call)])["cuts"] for i in (2, 1))
    assert again == first + 4096, "a run follows the plan that it is given"
    maps = {one["map"]: one for one in ran.of("cuTensorMapEncodeTiled")}
    for number, other in enumerate(others):
        begin = 1 + number * len(call)
        check_call(other, [ran.launches()[0], *ran.launches()[begin : begin + len(call)]], maps)


@pytest.mark.parametrize(("kv_format", "planned"), [("v32", "bf16"), ("bf16", "v32")])
def test_a_plan_of_another_format_decides_on_tiles(cuda_12_0, kv_format, planned):
    case = in_format(MANY, kv_format).but(plan="fresh", plan_format=planned)
    ran = cuda_12_0.run(f"sparse_decode({case!r}, plan=plan_sparse({case!r}))")
    assert ran.told[-1] == [0, "", 0, expected.kernel_of(case)]
    assert expected.call_of(case, PROCESSORS).tiling.cluster == (2 if planned == "v32" else 1)
    check_call(case, ran.launches(), {call["map"]: call for call in ran.of("cuTensorMapEncodeTiled")})


def test_a_prepared_plan_is_the_same_launch_elsewhere(cuda_12_0):
    case = STEP.but(plan="fresh", lengths=(1,) * STEP.batch)
    ran = cuda_12_0.run(f"made = prepare_plan_sparse({case!r}); plan_sparse({case!r}); run_plan_sparse(made, 4096)")
    assert [line[:3] for line in ran.told] == [[0, "", 0]] * 3
    plain, again = (decoded(launch) for launch in ran.launches())
    moved = {name for name, value in again.items() if value != plain[name]}
    assert moved == {"cuts", "cost_before", "lengths"}
    assert all(again[name] == plain[name] + 4096 for name in moved)


def test_a_plan_of_another_device_is_refused(cuda_12_0):
    case = STEP.but(plan="fresh")
    ran = cuda_12_0.run(f"sparse_decode({case!r}, plan=plan_sparse({case!r}, device=1))", devices=2)
    assert ran.told[1][:2] == [121, "plan was made for device cuda:1, q is on cuda:0"]
    assert [family(launch["kernel"]) for launch in ran.launches()] == ["plan"]


def test_work_goes_to_the_given_stream(cuda_12_0):
    case = STEP.but(lengths=(1,) * STEP.batch)
    ran = cuda_12_0.run(f"sparse_decode({case!r}, stream=7); sparse_decode({case!r})")
    assert [launch["stream"] for launch in ran.launches()] == [7, 7, 7, 0, 0, 0]


@pytest.mark.parametrize("case", [STEP.but(batch=0), STEP.but(s_q=0)], ids=["batch 0", "s_q 0"])
def test_an_empty_call_needs_no_driver(cuda_12_0, case):
    ran = cuda_12_0.run(f"sparse_decode({case!r}); sparse_decode({case!r}, plan=plan_sparse({case!r}))")
    assert [line[:3] for line in ran.told] == [[0, "", 0]] * 3
    assert ran.calls == []


def test_a_forced_kernel_must_be_of_the_format(cuda_12_0):
    step = STEP.but(h_q=64)
    other = in_format(step, "v32")
    ran = cuda_12_0.run(f"sparse_decode({other!r}); sparse_decode({step!r})", force_kernel="sparse_decode_bf16_576_v32")
    assert ran.told[0][0] == 0
    status, sentence = ran.told[1][:2]
    assert status == 200
    assert sentence.endswith("which does not fit the call: it is for another format of the cache")


@pytest.mark.parametrize("case", [STEP, MANY], ids=["few tokens", "many tokens"])
@pytest.mark.parametrize("pair", ["", "_pair"])
def test_a_forced_kernel_decides_on_pairs(cuda_12_0, case, pair):
    forced = f"sparse_decode_bf16_576_v32{pair}"
    ran = cuda_12_0.run(f"sparse_decode({in_format(case, 'v32')!r})", force_kernel=forced)
    assert ran.told == [[0, "", 0, forced]]
    decode = next(launch for launch in ran.launches() if "sparse" in launch["kernel"])
    assert decode["attributes"][CLUSTER] == (2 if pair else 1)


@pytest.mark.parametrize(("batch", "pair"), [(33, ""), (34, "_pair")])
def test_pairs_are_for_more_blocks_than_half_of_the_processors(cuda_12_0, batch, pair):
    ran = cuda_12_0.run(f"sparse_decode({in_format(STEP.but(batch=batch, s_q=1), 'v32')!r})")
    assert ran.told == [[0, "", 0, f"sparse_decode_bf16_576_v32{pair}"]]


@pytest.mark.parametrize("kv_format", ["bf16", "v32"])
@pytest.mark.parametrize("packed", [False, True])
def test_sizes_serve_fewer_query_tokens(cuda_12_0, kv_format, packed):
    """A server asks once, for its largest step."""
    most = in_format(STEP.but(batch=66, s_q=4, lengths=(1,) * 66), kv_format)
    if packed:
        cases = [most.but(cu_seqlens_q=(0,) * 67, total_q=tokens) for tokens in (264, 100, 34, 33, 1)]
    else:
        cases = [most.but(batch=batch, s_q=1, lengths=(1,) * batch) for batch in (66, 40, 34, 33, 1)]
    sizes = f"[(plan_call(case).size(), decode_call(case).size()) for case in {cases!r}]"
    ran = cuda_12_0.run(f"from ops.sparse_decode.shape_only import decode_call, plan_call\ntell({sizes})")
    for kind in (0, 1):
        found = [each[kind] for each in ran.told[0][0]]
        assert all(status == 0 for status, _ in found)
        assert max(size for _, size in found) == found[0][1]
