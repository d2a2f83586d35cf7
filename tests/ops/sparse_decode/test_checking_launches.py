"""What the checking mode launches beside sparse_decode and its plan, on a stub of CUDA 12.0."""

from __future__ import annotations

from ops.sparse_decode import launches as expected
from ops.sparse_decode.case import Cache
from ops.sparse_decode.shape_only import STEP
from stub_driver.launches import PROCESSORS, QUIET, decoded, family, same

ON = "import os; os.environ['FLASHMLA_CHECK'] = '1'; lib.flashmla_read_environment()\n"
CASE = STEP.but(lengths=(2048, 5, 0, 7), extra=Cache(num_blocks=40, page_size=7, topk=130), index_dtype="int64")
PACKED = STEP.but(cu_seqlens_q=(0, 2, 2, 3, 3), total_q=3)


def test_a_call_is_looked_at_by_the_kernel_before_its_own(cuda_12_0):
    ran = cuda_12_0.run(ON + f"sparse_decode({CASE!r}); made = plan_sparse({CASE!r}); sparse_decode({PACKED!r})")
    assert all(line[0] == 0 for line in ran.told)
    families = [family(launch["kernel"]) for launch in ran.launches()]
    decode = ["check_sparse_decode", "plan", "sparse_decode", "combine"]
    assert families == [*decode, *decode[:2], *decode]
    first, plan, packed = [one for one in ran.launches() if family(one["kernel"]) == "check_sparse_decode"]
    call = expected.call_of(CASE, PROCESSORS)
    wanted = call.lengths | {"batch": CASE.batch, "s_q": CASE.s_q, "cu_seqlens_q": 0}
    of_caches = {}
    for prefix, cache in CASE.caches.items():
        of_caches |= expected.cache_params(CASE, prefix, cache)
    found = decoded(first)
    same(found, wanted | {name: value for name, value in of_caches.items() if name in found})
    assert {"indices", "slots", "wide_indices", "extra_indices", "extra_slots"} <= found.keys() & of_caches.keys()
    same(decoded(plan), wanted | {"indices": 0, "extra_indices": 0})
    same(decoded(packed), {"batch": 4, "s_q": 2, "total_q": 3, "indices_stride_b": 0, "extra_indices": 0})
    assert [one["grid"] for one in (first, plan, packed)] == [[CASE.batch * CASE.s_q, 1, 1]] * 3
    assert set(ran.names()) <= QUIET | {"cuMemHostAlloc", "cuStreamIsCapturing"}


def test_off_it_costs_nothing(cuda_12_0):
    ran = cuda_12_0.run(f"sparse_decode({CASE!r}); plan_sparse({CASE!r})")
    assert {family(launch["kernel"]) for launch in ran.launches()} == {"plan", "sparse_decode", "combine"}
    assert set(ran.names()) <= QUIET


def test_prepared_calls_are_looked_at_if_they_were_prepared_in_the_mode(cuda_12_0):
    ran = cuda_12_0.run(
        f"before = prepare_sparse({CASE!r})\n{ON}made = prepare_sparse({CASE!r})\n"
        "run_sparse(before); run_sparse(made)\n"
        f"plan = prepare_plan_sparse({CASE!r}); run_plan_sparse(plan, 4096)"
    )
    looking = [one for one in ran.launches() if family(one["kernel"]) == "check_sparse_decode"]
    assert len(looking) == 2
    lengths = [decoded(one)["lengths"] for one in looking]
    assert lengths[1] == lengths[0] + 4096
