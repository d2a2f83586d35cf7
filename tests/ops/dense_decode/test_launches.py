"""What the operations ask the driver to launch, against the contract, on a stub of CUDA 12.0."""

from __future__ import annotations

import random

import pytest

import flashmla
from attention_launches import is_split
from buffers import Layout
from dsl_kernels.core.variant import SHORT_DTYPES
from dsl_kernels.fold.config import BLOCKS_PER_SM as FOLD_BLOCKS
from dsl_kernels.variants import FAMILIES
from ops.dense_decode import launches as expected
from ops.dense_decode.case import ON_GPUS, Case, Layouts, Shard
from ops.dense_decode.shape_only import STEP
from stub_driver.launches import CLUSTER, DEPENDENT_LAUNCH, PROCESSORS, QUIET, decoded, family, same


def check_call(
    case: Case, launches: list[dict], maps: dict[int, dict], *, own_plan: bool, processors=PROCESSORS
) -> None:
    """The launches of one dense_decode."""
    tiling = expected.tiling_of(case, processors)
    split = is_split(tiling)
    join = "fold" if case.batch_invariant else "combine"
    decode = launches[1 if own_plan else 0]
    assert [family(launch["kernel"]) for launch in launches] == [
        *(["plan"] if own_plan else []),
        "dense_decode",
        *([join] if split else []),
    ]
    assert decode["kernel"].startswith(f"flashmla_{expected.kernel_of(case, processors)}_kernel_")
    clusters = min(processors // tiling.cluster, tiling.num_parts)
    assert decode["grid"] == [clusters * tiling.cluster, 1, 1]
    assert decode["attributes"][CLUSTER] == tiling.cluster
    found = decoded(decode)
    same(found, expected.decode_params(case, processors, own_plan=own_plan))
    for name, wanted in expected.call_of(case, processors).q_maps().items():
        same(maps[found[name]], wanted)
    if not expected.gathers(case):
        same(maps[found["tma_kv"]], expected.kv_map(case, processors))
    if own_plan:
        check_plan(case, launches[0], own_plan=True, processors=processors)
    if split:
        launch = launches[-1]
        assert launch["kernel"].startswith(f"flashmla_{join}_{SHORT_DTYPES[case.dtype]}_{case.d_v}_")
        call = expected.call_of(case, processors, own_plan=own_plan)
        assert launch["grid"] == [processors * FOLD_BLOCKS if case.batch_invariant else call.combine_grid(), 1, 1]
        assert launch["attributes"][CLUSTER] == 1
        same(decoded(launch), call.join_params())


def check_plan(case: Case, launch: dict, *, own_plan: bool, processors=PROCESSORS) -> None:
    """The launch of the scheduler."""
    assert family(launch["kernel"]) == "plan"
    assert launch["grid"] == [1, 1, 1]
    same(decoded(launch), expected.call_of(case, processors, own_plan=own_plan).plan_params())


def table() -> dict[str, dict]:
    """The GPU rows of the kernel table by name."""
    return {row["name"]: row for row in flashmla.info()["kernels"] if row["target"] != "cpu"}


def random_case(draw: random.Random) -> Case:
    """Shapes at the edges of tiles and clusters, extents of 1 among them, and tensors that are not compact."""
    h_kv = draw.choice((1, 1, 2, 3))
    batch, s_q, group = (
        draw.choice((1, 2, 7, 150)),
        draw.choice((1, 2, 3, 70)),
        draw.choice((1, 3, 16, 63, 64, 65, 128)),
    )
    gaps = [tuple(draw.choice((0, 0, 1, 3)) for _ in range(3)) for _ in range(4)]
    varlen = draw.random() < 0.4
    axes = 2 if varlen else 3
    orders = [(*draw.sample(range(n), n), n) for n in (axes, 3, axes)]
    invariant = draw.random() < 0.2
    d_qk = draw.choice((576, *ON_GPUS))
    return Case(
        dtype=draw.choice(("bfloat16", "float16")),
        d_qk=d_qk,
        parted=d_qk != 512 and draw.random() < 0.5,
        s_q=s_q,
        h_q=group * h_kv,
        h_kv=h_kv,
        page_size=draw.choice((64, 64, 1, 2, 16, 19, 32, 48, 96, 128, 192, 2**14)),
        num_blocks=draw.choice((1, 2, 5000)),
        max_blocks=draw.choice((0, 1, 2, 300)),
        lengths=(1,) * batch,
        causal=draw.random() < 0.5,
        softmax_scale=draw.choice((None, 0.1)),
        given=draw.choice(((), ("lse",))),
        num_splits=0 if invariant else draw.choice((0, 0, 1, 2, 32)),
        batch_invariant=invariant,
        cu_seqlens_q=(0,) * (batch + 1) if varlen else None,
        total_q=draw.choice((1, 2, 1000)) if varlen else 0,
        shard=draw.choice((None, None, Shard(rank=1, world=4, interleave=16), Shard(2, 3, 2**31 - 1))),
        global_seqlens=(1,) * batch,
        out_dtype=draw.choice((None, "float32")),
        lse_base2=draw.random() < 0.5,
        empty_lse_minus=draw.random() < 0.5,
        layouts=Layouts(
            q=Layout(orders[0], gaps[0][:axes]),
            q_rope=Layout(orders[2], gaps[3][:axes]),
            kv_cache=Layout(orders[1], gaps[1]),
            out=Layout(orders[2], gaps[2][:axes]),
            block_table=Layout((), gaps[3][:1]),
            lse=Layout(tuple(draw.sample(range(axes), axes)), gaps[3][:axes]),
        ),
    )


@pytest.fixture(scope="module")
def drawn(cuda_12_0):
    """Many calls in one process: with a plan of their own, or with one that was made before."""
    draw = random.Random(0)
    cases = [random_case(draw) for _ in range(1000)]
    code = f"for case in {cases!r}:\n  decode(case, plan=plan(case)) if case.num_splits else decode(case)\n"
    ran = cuda_12_0.run(code)
    assert {tuple(line[:3]) for line in ran.told} == {(0, "", 0)}
    return cases, ran


def test_every_drawn_call_launches_what_the_contract_says(drawn):
    cases, ran = drawn
    maps = {call["map"]: call for call in ran.of("cuTensorMapEncodeTiled")}
    launches = iter(ran.launches())
    for case in cases:
        own_plan = not case.num_splits
        if not own_plan:
            check_plan(case, next(launches), own_plan=False)
        split = is_split(expected.tiling_of(case, PROCESSORS))
        made = [next(launches) for _ in range(own_plan + 1 + split)]
        check_call(case, made, maps, own_plan=own_plan)
    assert next(launches, None) is None


def test_every_drawn_call_is_quiet_and_leaves_the_context_stack_as_it_was(drawn):
    _, ran = drawn
    assert set(ran.names()) <= QUIET
    assert all(call["result"] == 0 for call in ran.calls)
    pushed = ran.names().count("cuCtxPushCurrent_v2")
    assert pushed == ran.names().count("cuCtxPopCurrent_v2") > 0


def test_each_kernel_is_loaded_once_and_made_for_cuda_12(drawn):
    _, ran = drawn
    loads = ran.of("cuLibraryLoadData")
    images = [call["image"] for call in loads]
    rows = {name for name, row in table().items() if row["operation"] in expected.FAMILIES}
    kernels = [v.name for name in expected.FAMILIES for v in FAMILIES[name].variants if v.kv_format == "bf16"]
    assert rows.issuperset(kernels)
    assert len(images) == len(set(images)) == len(ran.of("cuLibraryGetKernel")) == len(kernels), "all were drawn"
    assert {call["elf_abi"] for call in loads} == {7}
    assert len(ran.of("cuKernelSetAttribute")) == len(kernels)


def test_blocks_are_as_the_kernels_were_compiled(drawn):
    _, ran = drawn
    allowed = {call["kernel"]: call["value"] for call in ran.of("cuKernelSetAttribute")}
    for launch in ran.launches():
        (threads,) = {variant.threads for variant in FAMILIES[family(launch["kernel"])].variants}
        assert launch["block"] == [threads, 1, 1]
        assert launch["shared_bytes"] == allowed[launch["kernel"]]


@pytest.mark.parametrize("h_q", [1, 64, 65, 128])
@pytest.mark.parametrize("processors", [1, 78, 132])
def test_the_grid_follows_the_processors(cuda_12_0, h_q, processors):
    case = STEP.but(h_q=h_q)
    ran = cuda_12_0.run(f"decode({case!r})", processors=processors)
    maps = {call["map"]: call for call in ran.of("cuTensorMapEncodeTiled")}
    check_call(case, ran.launches(), maps, own_plan=True, processors=processors)


@pytest.mark.parametrize(("version", "dependent"), [(12000, False), (12020, False), (12030, True), (13000, True)])
def test_launches_overlap_only_where_graphs_can_hold_that(cuda_12_0, version, dependent):
    """Capture of programmatic dependent launches came with driver 12.3."""
    ran = cuda_12_0.run("decode(plan=plan()); decode()", version=version)
    assert len(ran.launches()) == 6
    for launch in ran.launches():
        assert launch["attributes"].get(DEPENDENT_LAUNCH) == (1 if dependent else None)


def test_work_goes_to_the_given_stream(cuda_12_0):
    ran = cuda_12_0.run("decode(plan=plan(stream=7), stream=7); decode()")
    assert [launch["stream"] for launch in ran.launches()] == [7, 7, 7, 0, 0, 0]


def test_the_kernel_that_ran_is_named(cuda_12_0):
    ran = cuda_12_0.run("decode(); decode(STEP.but(dtype='float16', s_q=1, h_q=16))")
    assert [line[3] for line in ran.told] == ["dense_decode_bf16_576_cluster2", "dense_decode_fp16_576_cluster1"]
    named = cuda_12_0.run("decode(); plan(); tell(ffi.string(lib.flashmla_last_kernel()).decode())")
    assert named.told[-1] == ["plan"]


@pytest.mark.parametrize("case", [STEP.but(lengths=()), STEP.but(s_q=0)], ids=["batch 0", "s_q 0"])
def test_an_empty_call_needs_no_driver(cuda_12_0, case):
    ran = cuda_12_0.run(f"decode({case!r}, plan=plan({case!r}))")
    assert [line[:3] for line in ran.told] == [[0, "", 0]] * 2
    assert ran.calls == []


def test_a_newer_driver_is_asked_for_the_parameters(cuda_12_4):
    ran = cuda_12_4.run("decode()", version=12040)
    assert ran.told[0][0] == 0
    asked = ran.of("cuKernelGetParamInfo")
    assert len(asked) == sum(len(launch["params"]) for launch in ran.launches())


def test_a_kernel_with_other_parameters_is_not_launched(cuda_12_4):
    ran = cuda_12_4.run("decode(); decode()", version=12040, parameter_too_large=4)
    for status, sentence, depth, _ in ran.told:
        assert (status, depth) == (301, 0)
        assert sentence.endswith("parameter 0 is 132 bytes in the kernel, 128 in the launcher")
    assert ran.launches() == []
    assert len(ran.of("cuLibraryLoadData")) == 1, "what was loaded is kept"


def test_a_scale_whose_product_is_no_float_is_clamped(cuda_12_0):
    """Infinity times a logit of 0 would be NaN; the CPU backend uses the same value."""
    ran = cuda_12_0.run("decode(STEP.but(softmax_scale=3e38))")
    largest = (2 - 2**-23) * 2.0**127
    assert decoded(ran.launches()[1])["scale_log2"] == largest


@pytest.mark.parametrize("page_size", [1, 2, 4, 8, 16, 19, 32, 48, 63, 64, 80, 96, 128, 192, 256, 272, 528, 1056])
@pytest.mark.parametrize("d_qk", ON_GPUS)
@pytest.mark.parametrize("h_q", [16, 128])
def test_pages_and_geometries_have_their_kernels_and_boxes(cuda_12_0, page_size, d_qk, h_q):
    case = STEP.but(s_q=1, h_q=h_q, page_size=page_size, d_qk=d_qk)
    ran = cuda_12_0.run(f"decode({case!r})")
    maps = {call["map"]: call for call in ran.of("cuTensorMapEncodeTiled")}
    check_call(case, ran.launches(), maps, own_plan=True)
    kv_maps = [call for call in maps.values() if len(call["extents"]) == 4]
    if expected.gathers(case):
        assert kv_maps == []
        return
    [kv_map] = kv_maps
    found = decoded(ran.launches()[1])
    assert kv_map["box"][1] * found["boxes"] * found["cluster"] == 64, "a unit is as many boxes"
    assert page_size % kv_map["box"][1] == 0, "no box lies in two pages"
