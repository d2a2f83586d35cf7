"""The performance page shows committed records and nothing else: in full, summed up, and as plots."""

import json
import xml.etree.ElementTree as ET

import pytest


def test_the_performance_page_is_that_of_the_records(load):
    plots = load("plots")
    made = plots.newest(plots.RESULTS)
    text = plots.PAGE.read_text()
    plain = load("provenance").without_verdict
    assert plain(plots.page(text, made)) == plain(text), "run python benchmarks/plots.py"
    charts = plots.charts(made)
    assert {path.name for path in plots.PLOTS.glob("*.svg")} == set(charts)
    for name, content in charts.items():
        assert (plots.PLOTS / name).read_text() == content, "run python benchmarks/plots.py"


def gpu_record(benchmark, case, us, **fields):
    record = {"benchmark": benchmark, "gpu": "GPU", "driver": "580", "digest": "abc", "dtype": "bfloat16"}
    record |= {"op": "dense_decode", "case": case, "us": us, "limit_us": 80.0, "spread": 0.01, "peers": {}}
    return record | fields


def test_the_page_shows_last_records_and_every_lost_point(load, tmp_path):
    plots = load("plots")
    point = [1, 1, 8, 128]
    made_up = [
        gpu_record("grid", point, 300.0, peers={"flashmla": 100.0}),
        gpu_record("grid", point, 120.0, peers={"flashmla": 100.0}),
        gpu_record("grid", [2, 2, 16, 512], 100.0, peers={"flashmla": 150.0, "fa3": 140.0}),
        gpu_record("grid", [4, 2, 16, 512], 100.0, peers={"flashmla": 101.0}),
        gpu_record("traces", ["conv", 64, 10, 1, 16], 100.0, peers={"flashmla": 120.0}),
        gpu_record(
            "plans", [16, 1, 16, 4096], 100.0, us_planned=103.0, us_batch_invariant=120.0, peers_planned={}
        ),
    ]  # fmt: skip
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(record) + "\n" for record in made_up))
    made = plots.newest(tmp_path)
    text = plots.page(plots.PAGE.read_text(), made)
    assert "faster than the best peer at 1, equal at 1, slower at 1." in text
    assert "| 1, 1, 8, 128 | 80.0 | 120.0 | 100.0 | 0.833 |" in text
    assert "| conv, 64, 1, 16 | 100.0 | 1.20 | 1.25 | met |" in text
    assert "| 16, 1, 16, 4096 | 100.0 | +3.0 | - | met | 1.200 | missed by 9.1 % |" in text
    assert "No record is committed yet." in text
    image = ET.fromstring(plots.charts(made)["grid_gpu.svg"])
    hints = [hint.text for hint in image.iter("{http://www.w3.org/2000/svg}title")]
    assert len(hints) == 3
    assert "b 1, s_q 1, h_q 8, 128 tokens: 120 us; flashmla 100" in hints


def test_the_card_of_the_last_records_is_shown_in_full_and_others_are_summed_up(load, tmp_path):
    plots = load("plots")
    beside = {"limit_us": 80.0, "peers": {"flashmla": 100.0}, "us_planned": 91.0, "us_cold": 95.0, "peers_cold": {}}
    older = gpu_record("dense_decode", [128, 1, 128, 4096], 88.0, **beside, gpu="NVIDIA H200")
    newer = gpu_record("dense_decode", [128, 1, 128, 4096], 90.0, **beside, gpu="NVIDIA H100 80GB", date="2026-01-02")
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(record) + "\n" for record in (older, newer)))
    made = plots.newest(tmp_path)
    lines = plots.SECTIONS["dense_decode"](made["dense_decode"])
    begins = [i for i, line in enumerate(lines) if line.startswith("NVIDIA")]
    full, summary = lines[: begins[1]], lines[begins[1] :]
    assert "NVIDIA H100 80GB, driver 580" in full[0]
    assert "| 128, 1, 128, 4096 | 80.0 | 90.0 | 0.010 | 100.0 | 1.12 | 0.900 | 0.901 | met |" in full
    assert "us / limit: median 1.10, from 1.10 to 1.10." in summary
    assert "Goals met: 1 of 1." in summary
    assert not any(line.startswith("|") for line in summary)
    assert set(plots.charts(made)) == {"time_over_limit_h100.svg", "time_over_limit_h200.svg"}
    for part, card in ((full, "h100"), (summary, "h200")):
        assert f"![time over limit](plots/time_over_limit_{card}.svg)" in part
    older["date"] = "2026-01-03"
    text = "\n".join(plots.SECTIONS["dense_decode"]([older, newer]))
    assert "| 128, 1, 128, 4096 | 80.0 | 88.0 |" in text
    assert "us / limit: median 1.12" in text


@pytest.mark.parametrize(
    "name", ["head_sizes", "grid", "traces", "plans", "sparse_decode", "sparse_grid", "sparse_plans", "writers"]
)
def test_every_section_has_a_summary_without_tables(load, name):
    """Of committed records, as if another card had newer ones."""
    plots = load("plots")
    made = [record for record in plots.newest(plots.RESULTS)[name] if "gpu" in record]
    last = [record | {"gpu": "Newer", "date": "9999"} for record in made]
    whole, both = plots.SECTIONS[name](last), plots.SECTIONS[name](made + last)
    assert "\n".join(whole) in "\n".join(both)
    summary = [line for line in both if line not in whole]
    assert summary[0].startswith("NVIDIA")
    assert len(summary) >= 2
    assert not any(line.startswith("|") for line in summary)


def test_quantised_caches_are_shown_with_the_peer_and_its_errors(load):
    tables = load("cache_tables")
    errors = {"0": 0.0021, "1": 0.0017}
    record = gpu_record("quantised", ["fp8", 128, 1, 128, 4096], 190.0, way="codes, fp8", rel_err=errors)
    record |= {"limit_us": 100.0, "peers": {"vllm": 229.0}, "peers_rel_err": {"vllm": {"0": 0.017, "1": 0.072}}}
    alone = gpu_record("quantised", ["v32", 128, 1, 64, 4096], 139.0, way="bfloat16", rel_err=errors)
    alone |= {"limit_us": 100.0, "peers_rel_err": {}}
    lines = tables.quantised_section([record, alone])
    missed = "missed by 2.7 %"  # 190 / 229 = 0.830, and 185 / 229 = 0.808
    start = "| fp8, 128, 1, 128, 4096 | codes, fp8 |"
    assert f"{start} 100.0 | 190.0 | 0.010 | 229.0 | 1.90 | 0.830 | 0.808 | {missed} |" in lines
    assert "| fp8, 128, 1, 128, 4096 | 2.1e-03 / 1.7e-02 | 1.7e-03 / 7.2e-02 |" in lines
    assert "Errors, by the mean of the keys, of codes, fp8 / bfloat16 / vLLM where a format has them:" in lines
    # Without a peer the limit is what counts: 140 / 110 = 1.273.
    start = "| v32, 128, 1, 64, 4096 | bfloat16 |"
    assert f"{start} 100.0 | 139.0 | 0.010 | - | 1.39 | - | 1.273 | missed by 9.2 % |" in lines
    assert "| v32, 128, 1, 64, 4096 | 2.1e-03 | 1.7e-03 |" in lines
    goals = load("goals")
    assert goals.quantised_verdict(record | {"us": 185.0}) == "met"
    assert goals.quantised_verdict(record | {"peers": {}}) is None
    assert goals.quantised_verdict(alone | {"case": ["v32", 1, 1, 1, 1]}) is None
    summary = tables.quantised_summary([record, alone])
    assert "Goals met: 0 of 2." in summary


def test_lost_points_of_the_grid_of_sparse_decode_are_listed(load):
    tables = load("cache_tables")
    record = {"benchmark": "sparse_grid", "gpu": "H", "driver": "1", "digest": "d", "selection": "s"}
    cases = ((10.0, {"flashmla": 9.0}), (10.0, {"flashmla": 12.0}), (10.0, {"flashmla": 10.1}), (10.0, {}))
    made = [
        record | {"case": ["v32", b, 1, 64, 512, 0], "us": us, "peers": peers} for b, (us, peers) in enumerate(cases, 1)
    ]
    text = "\n".join(tables.sparse_grid_section(made))
    assert "4 shapes were timed, 3 of them beside a peer" in text
    assert "faster than the best peer at 1, equal at 1, slower at 1." in text
    assert "| v32, 1, 1, 64, 512, 0 | 10.0 | 9.0 | 0.900 |" in text
    assert "v32, 2, " not in text


def test_the_page_names_the_shapes_that_a_tuning_file_changes(load, tmp_path):
    plots = load("plots")

    def timed(operation, case, rule_us, us, **fields):
        record = {"benchmark": "tuned", "gpu": "GPU", "driver": "580", "digest": "abc", "operation": operation}
        record |= {"case": case, "us": us, "rule_us": rule_us, "ratio": us / rule_us, "tuned": True}
        return record | {"kernels": {"tuned": "kernel"}, "num_splits": {"tuned": 7}} | fields

    made_up = [
        timed("dense_decode", [128, 1, 128, 4096], 100.0, 101.9),
        timed("dense_decode", [2, 1, 128, 2048], 16.0, 14.0),
        timed("sparse_decode", [2, 1, 128, 2048], 20.0, 20.5, tuned=False),
    ]
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(record) + "\n" for record in made_up))
    text = plots.page(plots.PAGE.read_text(), plots.newest(tmp_path))
    assert "Of 3 shapes 1 faster, 1 slower; the others keep" in text
    assert "| dense_decode 2, 1, 128, 2048 | 16.0 | 14.0 | 0.875 | gains | kernel, num_splits 7 |" in text
    assert "| sparse_decode 2, 1, 128, 2048 | 20.0 | 20.5 | 1.025 | loses | no entry |" in text
    assert "101.9" not in text
