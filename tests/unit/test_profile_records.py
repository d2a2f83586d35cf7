"""Profiles of calls on the CPU: what is recorded, counted and told, and what a profile is to its neighbours."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading

import numpy as np
import pytest

import flashmla
import small
from at_once import at_once
from flashmla._exchange import long_way

Q, CACHE, TABLE, LENGTHS = small.inputs(lengths=(5, 100))
TENSORS = Q, CACHE, TABLE, LENGTHS


def decode(**options):
    return flashmla.dense_decode(*TENSORS, **options)


def flags(record):
    return set(record["flags"])


def test_a_record_tells_what_the_call_was():
    plan = flashmla.plan_decode(*TENSORS)
    with flashmla.profile() as report:
        decode()
        decode(plan=plan)
        flashmla.prepare(flashmla.dense_decode, *TENSORS)()
    alone, planned, prepared = report.records
    assert [record["number"] for record in report.records] == [0, 1, 2]
    assert [{"own_plan", "prepared"} & flags(r) for r in (alone, planned, prepared)] == [
        {"own_plan"},
        set(),
        {"own_plan", "prepared"},
    ]
    for record in report.records:
        assert (record["operation"], record["kernel"]) == ("dense_decode", "dense_decode_fp32_cpu")
        assert (record["batch"], record["s_q"], record["h_q"], record["h_kv"]) == (2, 2, 4, 1)
        assert (record["d_qk"], record["d_v"], record["page_size"], record["device_id"]) == (576, 512, 64, -1)
        assert record["host_ns"] > 0
        assert record["device_time"] == "none"
    assert alone["workspace_bytes"] == flashmla.dense_decode_workspace_size(*TENSORS)


@pytest.mark.parametrize("way", ["fast", "long", "prepared"])
def test_bytes_and_flop_are_counted_by_lengths(way):
    """From the definition: each attended row once, each other tensor once; two products of d_qk and d_v columns."""
    decode()
    out, lse = decode()
    with flashmla.profile() as report:
        if way == "fast":
            decode()
        elif way == "prepared":
            flashmla.prepare(flashmla.dense_decode, *TENSORS)()
        else:
            with long_way():
                decode()
    (record,) = report.records
    tokens = int(LENGTHS.sum())
    assert record["tokens"] == tokens
    assert "counted" in record["flags"]
    others = sum(array.nbytes for array in (Q, TABLE, LENGTHS, out, lse))
    assert record["bytes"] == tokens * 576 * 4 + others
    assert record["flop"] == 2 * tokens * 4 * 2 * (576 + 512)


def test_lengths_that_make_no_sense_are_clamped():
    with flashmla.profile() as report:
        flashmla.dense_decode(Q, CACHE, TABLE, np.array([-7, 1 << 30], np.int32))
    assert report.records[0]["tokens"] == TABLE.shape[1] * 64


def test_a_window_bounds_the_tokens():
    with flashmla.profile() as report:
        decode(window=10)
    assert report.records[0]["tokens"] == 5 + (10 + 2 - 1)


def test_sparse_calls_count_both_selections():
    draw = np.random.default_rng(0)
    indices, extra = draw.integers(0, 256, (2, 2, 24)), draw.integers(0, 256, (2, 2, 8))
    with flashmla.profile() as report:
        out, lse = flashmla.sparse_decode(
            Q, CACHE, indices, topk_length=np.array([3, 100], np.int32), extra_kv_cache=CACHE, extra_indices=extra
        )
    (record,) = report.records
    named = (3 + 24) + 2 * 8  # of a query token of each request
    assert (record["topk"], record["tokens"]) == (24, named)
    assert record["flop"] == 2 * named * 2 * 4 * (576 + 512)
    others = sum(array.nbytes for array in (Q, indices, extra, out, lse)) + 2 * 4
    assert record["bytes"] == named * 2 * 576 * 4 + others


def test_writers_readers_and_merges():
    pages, tokens = np.zeros((4, 64, 1, 656), np.uint8), np.ones((3, 576), np.float32)
    slots = np.array([100, 7, -1])
    out, lse = decode()
    with flashmla.profile() as report:
        flashmla.append_kv(pages, tokens[:, :512], tokens[:, 512:], slots, kv_format="v32")
        flashmla.merge_states([out, out], [lse, lse])
    write, merge = report.records
    assert (write["num_tokens"], write["tokens"], write["flop"]) == (3, 3, 0)
    assert write["bytes"] == 3 * 656 + tokens.nbytes + slots.nbytes
    assert merge["bytes"] == 3 * (out.nbytes + lse.nbytes)
    assert report.to_dict()["groups"][0]["kv_format"] in {"v32", "bf16"}


def test_calls_that_fail_or_do_nothing_are_no_records():
    with flashmla.profile() as report:
        with pytest.raises(flashmla.InvalidArgumentError):
            flashmla.dense_decode(Q, CACHE, TABLE, LENGTHS.astype(np.int64))
        flashmla.dense_decode(Q[:0], CACHE, TABLE[:0], LENGTHS[:0])
    assert report.records == []
    assert str(report) == "no calls were recorded"
    assert report.to_dict()["groups"] == []


def test_the_oldest_are_dropped_and_the_report_says_so():
    with flashmla.profile(max_records=4) as report:
        for _ in range(7):
            decode()
    assert [record["number"] for record in report.records] == [3, 4, 5, 6]
    assert report.dropped == 3
    assert "7 calls, of which 3 were dropped" in str(report)


def test_more_records_than_are_read_at_once():
    with flashmla.profile() as report:
        for _ in range(2500):
            flashmla.plan_decode(*TENSORS)
    assert [record["number"] for record in report.records] == list(range(2500))


def test_one_profile_at_a_time():
    with flashmla.profile() as report:
        with (
            pytest.raises(flashmla.InvalidArgumentError, match="a profile is running already; it ends with its with"),
            flashmla.profile(),
        ):
            pass
        decode()
    assert len(report.records) == 1
    with flashmla.profile() as other:
        decode()
        decode()
    assert (len(report.records), len(other.records)) == (1, 2)
    with pytest.raises(flashmla.InvalidArgumentError, match="entered once"), report:
        pass


def test_a_profile_that_is_left_again_leaves_others_alone():
    earlier = flashmla.profile()
    with earlier:
        decode()
    with flashmla.profile() as report:
        decode()
        earlier.__exit__(None, None, None)
        flashmla.profile().__exit__(None, None, None)
        decode()
    assert (len(earlier.records), len(report.records)) == (1, 2)


def test_an_exception_ends_the_profile():
    report = flashmla.profile()

    def fails():
        with report:
            decode()
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fails()
    decode()
    assert len(report.records) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_records": -1}, "max_records is -1; it must be in"),
        ({"max_records": 1 << 21}, "max_records is 2097152"),
        ({"max_pending": 1 << 17}, "max_pending is 131072"),
    ],
)
def test_numbers_out_of_range_are_named(options, words):
    with pytest.raises(flashmla.InvalidArgumentError, match=words), flashmla.profile(**options):
        pass


def test_calls_of_all_threads_are_recorded():
    def work():
        for _ in range(50):
            decode(num_threads=1)

    with flashmla.profile() as report:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [record["number"] for record in report.records] == list(range(200))


def test_results_do_not_change():
    expected = decode()
    with flashmla.profile():
        found = decode()
    assert [array.tobytes() for array in found] == [array.tobytes() for array in expected]


def test_the_report_in_all_its_forms(tmp_path):
    with flashmla.profile() as report:
        for _ in range(10):
            decode()
    text = str(report)
    assert "dense_decode_fp32_cpu" in text
    assert "of the CPU no limit is known" in text
    facts = json.loads(json.dumps(report.to_dict()))
    (group,) = facts["groups"]
    assert group["calls"] == facts["calls"] == 10
    assert group["limit_share"] is None
    assert group["bytes_per_second"] == pytest.approx(group["bytes"] / group["seconds"])
    assert {one["rule"] for one in facts["advice"]} == {"give outputs"}
    report.save(tmp_path / "picture.svg")
    assert (tmp_path / "picture.svg").read_text().startswith("<svg ")
    report.save(tmp_path / "figures.json")
    assert json.loads((tmp_path / "figures.json").read_text()) == facts
    with pytest.raises(flashmla.InvalidArgumentError, match=r"must end with .svg, .png or .json"):
        report.save(tmp_path / "picture.pdf")


def test_a_png_is_drawn_by_cairosvg(tmp_path, monkeypatch):
    with flashmla.profile() as report:
        decode()
    if importlib.util.find_spec("cairosvg") is None:
        with pytest.raises(ImportError, match="needs the package cairosvg"):
            report.save(tmp_path / "picture.png")
        stand_in = "def svg2png(*, bytestring, write_to):\n    open(write_to, 'wb').write(b'drawn: ' + bytestring)\n"
        (tmp_path / "cairosvg.py").write_text(stand_in)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "cairosvg", raising=False)
        report.save(tmp_path / "picture.png")
        monkeypatch.delitem(sys.modules, "cairosvg")
        assert (tmp_path / "picture.png").read_text().startswith("drawn: <svg ")
    else:
        report.save(tmp_path / "picture.png")
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_given_outputs_are_not_advised():
    out, lse = decode()
    with flashmla.profile() as report:
        for _ in range(10):
            decode(out=out, lse=lse)
    assert report.to_dict()["outputs_made"] == 0
    assert report.advice() == []


def test_any_thread_may_look_at_a_report():
    """Records are whole and in order for each, and a new profile's stay its own."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    reports = [flashmla.profile()]
    done = threading.Event()

    def make() -> None:
        for _ in range(300):
            with flashmla.profile() as report:
                reports.append(report)
                for _ in range(20):
                    decode(num_threads=1)
            assert [record["number"] for record in report.records] == [*range(20)]

    def look() -> None:
        while not done.is_set():
            _ = [report.records for report in reports[-2:]]

    def work(makes: bool) -> None:
        if not makes:
            return look()
        try:
            make()
        finally:
            done.set()

    try:
        at_once(work, [True, False, False])
    finally:
        sys.setswitchinterval(before)
    assert {len(report.records) for report in reports[1:]} == {20}
