"""What follows from the device: how many clusters run at once, and how much of L2 q and out may take."""

from __future__ import annotations

import pytest

import schedule
from ops.dense_decode.shape_only import STEP
from stub_driver.launches import CLUSTER, decoded

PAIR = STEP.but(s_q=1, h_q=128)  # two row blocks, which a cluster of two shares
EVICT_FIRST, EVICT_NORMAL = 0x12F0000000000000, 0x1000000000000000  # cute/arch/copy_sm90_desc.hpp
# (processors, clusters of two that run at once): an H100 SXM, one of PCIe, an H20, slices of MIG; devices whose groups
# of processors leave some over, and one that has no two neighbours
MACHINES = [(132, 66), (114, 57), (78, 39), (60, 30), (16, 8), (132, 60), (16, 7), (3, 1), (132, 0), (1, 0)]


def tiling(case, machine) -> schedule.Tiling:
    extents = {name: getattr(case, name) for name in ("batch", "s_q", "h_q", "h_kv", "max_blocks", "num_splits")}
    return schedule.tile(schedule.hopper(*machine), **extents, page_size=case.page_size)


@pytest.mark.parametrize("machine", MACHINES, ids=str)
@pytest.mark.parametrize("planned", [False, True], ids=["alone", "planned"])
def test_there_are_as_many_parts_as_clusters_run_at_once(cuda_12_0, machine, planned):
    processors, clusters = machine
    wanted = tiling(PAIR, machine)
    assert wanted.cluster == (2 if clusters else 1)
    code = f"decode({PAIR!r}, plan=plan({PAIR!r}))" if planned else f"decode({PAIR!r})"
    ran = cuda_12_0.run(code, processors=processors, clusters=clusters)
    assert [line[:3] for line in ran.told] == [[0, "", 0]] * (2 if planned else 1)
    plan, launch = ran.launches()[:2]
    assert decoded(plan)["num_parts"] == decoded(launch)["num_parts"] == wanted.num_parts
    assert launch["attributes"][CLUSTER] == wanted.cluster
    assert launch["grid"] == [wanted.cluster * wanted.num_parts, 1, 1]


def test_no_more_clusters_are_launched_than_run_at_once(cuda_12_0):
    """Splits that are given make more parts."""
    case = PAIR.but(num_splits=3, lengths=(1,) * 100)
    ran = cuda_12_0.run(f"decode({case!r}, plan=plan({case!r}))", clusters=60)
    assert decoded(ran.launches()[1])["num_parts"] == 300
    assert ran.launches()[1]["grid"] == [120, 1, 1]


def test_the_driver_is_asked_once_for_a_kernel_and_a_device(cuda_12_0):
    ran = cuda_12_0.run(
        f"for device in (0, 1):\n  for case in ({PAIR!r}, {PAIR!r}, {PAIR.but(dtype='float16')!r}):\n"
        "    made = plan(case, device); decode(case, device, plan=made)\n",
        devices=2,
    )
    assert {line[0] for line in ran.told} == {0}
    asked = ran.of("cuOccupancyMaxActiveClusters")
    assert len(asked) == len({(call["kernel"], call["device"]) for call in asked}) == 4
    assert {(call["cluster"], call["block"], call["result"]) for call in asked} == {(2, 384, 0)}


def test_a_kernel_without_clusters_asks_nothing(cuda_12_0):
    assert cuda_12_0.run(f"decode({PAIR.but(h_q=16)!r})").of("cuOccupancyMaxActiveClusters") == []


def test_where_the_driver_cannot_say_no_processor_is_left_over(cuda_12_0):
    ran = cuda_12_0.run(f"fail('cuOccupancyMaxActiveClusters', 400); decode({PAIR!r})", processors=78, clusters=3)
    assert ran.launches()[1]["grid"] == [2 * tiling(PAIR, (78, 39)).num_parts, 1, 1]


@pytest.mark.parametrize("megabytes", [50, 60, 25, 5])
def test_kv_goes_first_where_q_and_out_fit_into_four_fifths_of_l2(cuda_12_0, megabytes):
    row_bytes = 2 * (576 + 512)
    most = (megabytes << 20) // 5 * 4 // row_bytes
    for rows, policy in ((most, EVICT_FIRST), (most + 1, EVICT_NORMAL)):
        case = STEP.but(s_q=1, h_q=1, h_kv=1, lengths=(1,) * rows)
        ran = cuda_12_0.run(f"decode({case!r})", l2_bytes=megabytes << 20)
        assert decoded(ran.launches()[1])["kv_policy"] == policy
