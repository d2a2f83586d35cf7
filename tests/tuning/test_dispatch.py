"""What calls do with a loaded tuning file: kernels, cuts and policies are those of the stub driver's launches."""

from __future__ import annotations

import pytest

import c_abi
from stub_driver.launches import decoded

pytestmark = pytest.mark.usefixtures("gpu_kernels")

CODE = "from tuning.host import *\n"
ONE, TWO = "dense_decode_bf16_576_cluster1", "dense_decode_bf16_576_cluster2"
NORMAL, FIRST = c_abi.constant("L2_EVICT_NORMAL"), c_abi.constant("L2_EVICT_FIRST")
POLICIES = {NORMAL: 0x1000000000000000, FIRST: 0x12F0000000000000}
MISMATCH = c_abi.constant("ERROR_PLAN_MISMATCH")


@pytest.fixture
def ran(cuda_12_0, tmp_path):
    """Runs code with `file`, the name of a tuning file that is not there yet."""
    return lambda code, **settings: cuda_12_0.run(f"{CODE}file = {str(tmp_path / 'tuned')!r}\n{code}", **settings)


def kernels(told) -> list[str]:
    return [line[3] for line in told if len(line) > 3]


def of_family(launches, family: str) -> list[dict]:
    return [decoded(launch) for launch in launches if launch["kernel"].startswith(f"flashmla_{family}_")]


def test_the_kernel_of_an_entry_runs_with_its_tiles(ran):
    found = ran(f"decode(); save(file, dense(STEP, kernel={ONE!r})); load(file); decode(); forget(); decode()")
    assert kernels(found.told) == [TWO, ONE, TWO]
    assert [one["cluster"] for one in of_family(found.launches(), "dense_decode")] == [2, 1, 2]
    assert [one["cluster"] for one in of_family(found.launches(), "plan")] == [2, 1, 2]


@pytest.mark.parametrize("name", [f"{ONE}_pages", f"{ONE}_gather", f"{TWO}_pages"])
def test_any_kernel_that_does_the_call_may_be_named(ran, name):
    found = ran(f"save(file, dense(STEP, kernel={name!r})); load(file); decode(); decode(plan=plan())")
    assert {line[0] for line in found.told[1:]} == {0}
    assert kernels(found.told) == [name] * 2


@pytest.mark.parametrize(
    "name",
    ["dense_decode_fp16_576_cluster1", "dense_decode_bf16_512_cluster1_pages", f"{ONE}_pages_invariant", "plan"],
)
def test_a_kernel_that_does_not_do_the_call_is_ignored(ran, name):
    found = ran(f"save(file, dense(STEP, kernel={name!r})); load(file); decode()")
    assert kernels(found.told) == [TWO]


@pytest.mark.parametrize(("d_qk", "counts"), [(160, True), (320, False)])
def test_an_entry_is_for_exact_products(ran, d_qk, counts):
    """A call that permits those of codes follows it where no kernel makes them."""
    name = f"dense_decode_bf16_{d_qk}_cluster1_gather_fp8"
    found = ran(
        f"coded = STEP.but(d_qk={d_qk}, kv_format='fp8', q_dtype='uint8')\n"
        f"save(file, dense(coded, dtype='uint8', kernel={name!r})); load(file)\n"
        "for compute in ('default', 'fp8'): decode(coded.but(compute=compute))"
    )
    assert kernels(found.told) == [name, name if counts else f"dense_decode_bf16_{d_qk}_cluster1_fp8_qgmma"]


def test_tiles_of_two_blocks_are_not_made_of_one(ran):
    found = ran(
        f"few = STEP.but(s_q=1, h_q=16); save(file, dense(few, kernel={TWO!r})); load(file); decode(few); "
        "decode(few, plan=plan(few))"
    )
    assert kernels(found.told) == [ONE] * 2


def test_splits_are_those_of_the_entry(ran):
    found = ran("save(file, dense(STEP, num_splits=3)); load(file); decode(); decode(plan=plan())")
    tiles = 8
    for one in of_family(found.launches(), "dense_decode"):
        assert (one["num_parts"], one["slots_per_part"]) == (3 * tiles, 1)
    for one in of_family(found.launches(), "plan"):
        assert one["num_splits"] == 3


def test_splits_of_the_caller_count_and_nothing_of_the_entry(ran):
    found = ran(
        f"split = STEP.but(num_splits=2); save(file, dense(STEP, num_splits=3, kernel={ONE!r})); load(file)\n"
        "decode(plan=plan(split))"
    )
    assert [(one["num_splits"], one["cluster"]) for one in of_family(found.launches(), "plan")] == [(2, 2)]
    assert kernels(found.told) == [TWO]


@pytest.mark.parametrize("policy", POLICIES)
def test_the_policy_is_that_of_the_entry(ran, policy):
    found = ran(f"save(file, dense(STEP, l2_policy={policy})); load(file); decode(); decode(plan=plan())")
    assert {one["kv_policy"] for one in of_family(found.launches(), "dense_decode")} == {POLICIES[policy]}


OTHERS = [
    {"batch_from": 9, "batch_to": 20}, {"batch_from": 1, "batch_to": 7}, {"capacity_from": 0, "capacity_to": 2559},
    {"capacity_from": 2561, "capacity_to": 2**31 - 1}, {"page_size": 32}, {"h_q": 128}, {"h_kv": 2}, {"s_q": 1},
    {"window": 64}, {"varlen": 1}, {"kv_format": 1}, {"dtype": "float16"}, {"d_qk": 512}, {"extra_topk": 64},
    {"operation": "sparse_decode"},
]  # fmt: skip


def test_an_entry_is_for_its_shape_alone(ran):
    """Whether it is there alone, among all others, or not at all."""
    found = ran(
        f"entry = dense(STEP, kernel={ONE!r}); others = [entry | other for other in {OTHERS!r}]\n"
        "for entries in (*([other] for other in others), others, [*others, entry]):\n"
        "    save(file, *entries); load(file); decode()"
    )
    assert kernels(found.told) == [TWO] * (len(OTHERS) + 1) + [ONE]


def test_a_range_covers_what_is_in_it(ran):
    found = ran(
        f"save(file, dense(STEP, kernel={ONE!r}, batch_from=2, batch_to=8, capacity_from=64, capacity_to=2560))\n"
        "load(file)\n"
        "for lengths, blocks in ((8, 40), (2, 1), (5, 20), (1, 40), (9, 40), (8, 41)):\n"
        "    decode(STEP.but(lengths=(1,) * lengths, max_blocks=blocks))"
    )
    assert kernels(found.told) == [ONE] * 3 + [TWO] * 3


def test_what_must_not_change_its_bits_asks_no_file(ran):
    found = ran(
        "case = STEP.but(batch_invariant=True)\n"
        "decode(case)\n"
        f"save(file, dense(STEP, num_splits=5, l2_policy={NORMAL}, kernel='{TWO}_invariant')); load(file)\n"
        "decode(case)"
    )
    first, second = [launch for launch in found.launches() if "dense_decode" in launch["kernel"]]
    assert {**first, "params": 0} == {**second, "params": 0}
    first, second = decoded(first), decoded(second)
    assert {n for n in first if first[n] != second[n]} <= {"tma_q", "tma_q_rope", "tma_kv"}


def test_a_size_is_enough_with_any_file(ran):
    """Sized without one, with more splits, with fewer: the call runs whatever is loaded by then, and says nothing."""
    found = ran(
        "from ops.dense_decode.shape_only import decode_call\n"
        "from shape_only import CUDA, SCRATCH\n"
        "from gpu.kernel_rows import last_kernel\n"
        "def sized():\n"
        "    return decode_call(STEP, (CUDA, 0)).size()[1]\n"
        "def called(size):\n"
        "    call = decode_call(STEP, (CUDA, 0)); call.give_scratch(SCRATCH['workspace'], size)\n"
        "    tell_status(call.run(), size)\n"
        "files = [None, file + '1', file + '9']\n"
        "save(file + '1', dense(STEP, num_splits=1)); save(file + '9', dense(STEP, num_splits=40))\n"
        "sizes = []\n"
        "for name in files:\n"
        "    tuning.load_tuning(name); sizes.append(sized())\n"
        "tell(sizes)\n"
        "for name in files:\n"
        "    tuning.load_tuning(name)\n"
        "    for size in sizes: called(size)"
    )
    (sizes,), *calls = found.told
    plain, one, many = sizes
    assert plain == one < many
    assert [line[:2] for line in calls] == [[0, ""]] * 9
    parts = [launch["num_parts"] for launch in of_family(found.launches(), "dense_decode")]
    tiles = 8
    assert parts == [66] * 3 + [tiles] * 3 + [66, 66, 40 * tiles]


@pytest.mark.parametrize(("before", "after"), [(ONE, TWO), (TWO, ONE), (ONE, None), (TWO, None), (None, ONE)])
def test_a_plan_is_right_whatever_is_loaded_later(ran, before, after):
    choices = [{"kernel": name, "num_splits": 4} if name else {} for name in (before, after)]
    first, second = choices
    found = ran(
        f"save(file + '1', dense(STEP, **{first!r})); save(file + '2', dense(STEP, **{second!r}))\n"
        "load(file + '1'); made = plan(); load(file + '2'); decode(plan=made); forget(); decode(plan=made)"
    )
    assert all(line[0] in (0, "") for line in found.told), found.told
    cluster = {one["cluster"] for one in of_family(found.launches(), "plan")}
    assert {one["cluster"] for one in of_family(found.launches(), "dense_decode")} == cluster


def test_a_prepared_call_stays_as_it_was(ran):
    found = ran(f"made = prepare_decode(); save(file, dense(STEP, kernel={ONE!r})); load(file); run_decode(made)\n"
                "made = prepare_decode(); forget(); run_decode(made)")  # fmt: skip
    assert kernels(found.told) == [TWO, ONE]


def test_a_forced_kernel_comes_first(ran):
    name = f"{ONE}_pages"
    found = ran(f"save(file, dense(STEP, kernel={TWO!r})); load(file); decode()", force_kernel=name)
    assert kernels(found.told) == [name]


SPARSE = "from ops.sparse_decode.shape_only import STEP as SELECT\n"


def splits(found) -> list[int]:
    return [one["num_splits"] for one in of_family(found.launches(), "plan")]


def test_a_plan_of_sparse_decode_follows_what_all_formats_agree_on(ran):
    found = ran(
        SPARSE + "plan_sparse(SELECT)\n"
        "for other in (4, 5):\n"
        "    save(file, sparse(SELECT, num_splits=4), sparse(SELECT, kv_format=1, num_splits=other)); load(file)\n"
        "    sparse_decode(SELECT, plan=plan_sparse(SELECT)); sparse_decode(SELECT)"
    )
    assert splits(found) == [0, 4, 4, 0, 4]
    assert all(line[0] in (0, "") for line in found.told), found.told


def test_a_file_is_for_its_gpu_and_driver(ran):
    """On a machine with two of the kind, for both; a stub has one name, so the other one is of another driver."""
    code = f"save(file, dense(STEP, kernel={ONE!r})); "
    assert kernels(ran(f"{code} load(file); decode(device=1)", devices=2).told) == [ONE]
    for settings, words in [
        ({"name": "NVIDIA Other"}, "NVIDIA Other (sm_90, 132 processors, driver 12.0)"),
        ({"processors": 78}, "NVIDIA Stub (sm_90, 78 processors, driver 12.0)"),
        ({"version": 12010}, "NVIDIA Stub (sm_90, 132 processors, driver 12.1)"),
    ]:
        found = ran("load(file); decode()", **settings)
        status, sentence = found.told[0]
        assert status == "FLASHMLA_ERROR_STATE"
        assert 'tuned" is for NVIDIA Stub (sm_90, 132 processors, driver 12.0); device 0 is ' in sentence
        assert sentence.endswith(words)
        assert kernels(found.told) == [TWO]


def test_the_variable_is_read_and_a_foreign_file_is_told_not_failed(ran, monkeypatch, tmp_path):
    monkeypatch.setenv("FLASHMLA_TUNING", str(tmp_path / "tuned"))
    told = ran(f"save(file, dense(STEP, kernel={ONE!r})); tell(tuning.tell(0)['problem'])").told
    assert told[0][0].startswith("cannot be read: ")
    found = ran("decode(); tell(tuning.tell(0))")
    assert kernels(found.told[:1]) == [ONE]
    assert found.told[1][0]["problem"] is None
    assert found.told[1][0]["count"] == 1
    found = ran("decode(); tell(tuning.tell(0)['problem']); tell(tuning.tell()['problem'])", version=12020)
    assert kernels(found.told[:1]) == [TWO]
    here, of_the_file = found.told[1:]
    assert here[0].startswith("is for NVIDIA Stub (sm_90, 132 processors, driver 12.0); device 0 is NVIDIA Stub (")
    assert here[0].endswith("driver 12.2)")
    assert of_the_file == [None]


def test_a_gpu_that_cannot_be_named_now_is_asked_again(ran, monkeypatch, tmp_path):
    ran(f"save(file, dense(STEP, kernel={ONE!r}))")
    monkeypatch.setenv("FLASHMLA_TUNING", str(tmp_path / "tuned"))
    found = ran("fail('cuDeviceGetName'); decode(); decode()")
    assert kernels(found.told) == [TWO, ONE]


def test_the_log_tells_what_a_file_chose_and_why_it_is_not_used(ran, monkeypatch, tmp_path):
    ran(f"save(file, dense(STEP, kernel={ONE!r}))")
    monkeypatch.setenv("FLASHMLA_TUNING", str(tmp_path / "tuned"))
    monkeypatch.setenv("FLASHMLA_LOG", "1")
    log = tmp_path / "log"
    redirect = (
        f"import os; os.dup2(os.open({str(log)!r}, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)\ndecode(); decode()"
    )
    ran(redirect)
    assert f"kernel {ONE}, which the tuning file names" in log.read_text()
    ran(redirect, version=12020)
    assert log.read_text().count("is not used on device 0: it is for NVIDIA Stub") == 1
    (tmp_path / "tuned").write_text("something")
    ran(redirect)
    assert log.read_text().count('tuned" is not used: it is no tuning file') == 1


def test_records_tell_that_a_call_was_tuned(ran):
    found = ran(
        f"import flashmla; save(file, dense(STEP, kernel={ONE!r}))\n"
        "with flashmla.profile() as report:\n"
        "    decode(); load(file); decode()\n"
        "tell([('tuned' in r['flags'], r['capacity'], r['window'], r['extra_topk']) for r in report.records])"
    )
    assert found.told[-1] == [[[False, 2560, 0, 0], [True, 2560, 0, 0]]]


THREADS = """
import threading
save(file + '1', dense(STEP, kernel={one!r}, num_splits=2)); save(file + '2', dense(STEP, kernel={two!r}, num_splits=9))
done = threading.Event()
def swap():
    while not done.is_set():
        for name in (file + '1', file + '2', None): tuning.load_tuning(name)
def work():
    for turn in range(40): decode(); decode(plan=plan())
swapping = threading.Thread(target=swap); swapping.start()
workers = [threading.Thread(target=work) for _ in range(3)]
for worker in workers: worker.start()
for worker in workers: worker.join()
done.set(); swapping.join()
"""


def test_files_are_swapped_beside_calls(ran):
    found = ran(THREADS.format(one=ONE, two=TWO))
    assert {line[0] for line in found.told} == {0}, [line for line in found.told if line[0]]
