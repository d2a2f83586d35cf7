"""What the benchmarks time, and what they make of it."""

import json

import pytest


def test_the_grid_is_wide_and_quick(load):
    grid_points = load("grid_points")
    points = grid_points.points(2)
    assert len(set(points)) == len(points) >= 300
    for axis, values in enumerate((grid_points.BATCH, grid_points.S_Q, grid_points.H_Q, grid_points.TOKENS)):
        assert {point[axis] for point in points} == set(values)
    assert all(b * tokens * grid_points.TOKEN_BYTES <= 30e9 for b, _, _, tokens in points)
    assert sum(map(grid_points.seconds, points)) < 300
    everything = grid_points.points(grid_points.PHASES)
    assert (128, 1, 128, 4096) in everything
    assert set(points) < set(everything)
    shards = [point for i in range(3) for point in grid_points.shard(points, i, 3)]
    assert sorted(shards) == sorted(points)


def test_the_grid_of_sparse_decode_is_wide_and_quick(load):
    """Every value of an axis is there in each format, and with nearly every value of the other axes."""
    grid = load("sparse_grid_points")
    points = grid.points()
    assert len(set(points)) == len(points) >= 150
    axes = (grid.BATCH, grid.S_Q, grid.H_Q, grid.TOPK)
    for kv_format in grid.FORMATS:
        there = [point for point in points if point[0] == kv_format]
        for axis, values in enumerate(axes, 1):
            assert {point[axis] for point in there} == set(values)
    assert {(h_q, topk) for _, _, _, h_q, topk, _ in points} == {(h_q, topk) for h_q in grid.H_Q for topk in grid.TOPK}
    assert sum(map(grid.seconds, points)) < 60
    assert len(grid.points(grid.PHASES)) == len(grid.FORMATS) * len(grid.BATCH) * len(grid.S_Q) * 5 * len(grid.TOPK)


def test_a_grid_goes_on_where_it_ended(load, tmp_path, monkeypatch):
    grid, digest = load("grid"), load("digest")
    monkeypatch.setattr(digest, "current", lambda: "here")
    records = [
        {"benchmark": "grid", "digest": "here", "case": [1, 1, 8, 128]},
        {"benchmark": "grid", "digest": "other kernels", "case": [2, 1, 8, 128]},
        {"benchmark": "dense_decode", "digest": "here", "case": [4, 1, 8, 128]},
    ]
    file = tmp_path / "some.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    points = [(b, 1, 8, 128) for b in (1, 2, 4)]
    assert grid.left_to_do(points, [file, tmp_path / "none.jsonl"]) == points[1:]


def test_a_replay_keeps_the_batch_full_and_in_order(load):
    replay = load("trace_replay").replay
    # Two slots; (context, generated). The first two enter at step 0; (10, 3) has two steps, (20, 5) four.
    requests = [(10, 3), (20, 5), (30, 2), (40, 9), (50, 9)]
    assert replay(requests, 2, [0.4]) == [(2, [11, 21])]
    assert replay(requests, 2, [0.6]) == [(3, [31, 23])]  # step 2: the third took the first's slot
    # Step 3: the third is gone after one step, the fourth took its slot.
    assert replay(requests, 2, [0.8]) == [(4, [41, 24])]
    many = [(100, 1 + i % 7) for i in range(500)]
    for entered, lengths in replay(many, 16):
        assert len(lengths) == 16
        assert entered >= 0.25 * len(many)
        assert all(101 <= length <= 107 for length in lengths)


def test_the_committed_snapshots_are_of_full_batches(load):
    trace_replay = load("trace_replay")
    snapshots = json.loads(trace_replay.SNAPSHOTS_FILE.read_text())
    assert {snapshot["concurrent"] for snapshot in snapshots} == set(trace_replay.CONCURRENT)
    assert all(len(snapshot["lengths"]) == snapshot["concurrent"] for snapshot in snapshots)


def test_goals(load):
    goals = load("goals")
    record = {"case": [128, 1, 128, 4096], "us": 90.0, "limit_us": 70.0, "peers": {"flashmla": 100.0, "fa3": 80.0}}
    assert goals.case_verdict(record) == "met"  # 235.0 / 260.9 = 0.9007
    assert goals.case_verdict(record | {"us": 91.0}) == "missed by 1.0 % (equal)"
    assert goals.case_verdict(record | {"us": 99.0}) == "missed by 9.9 %"
    assert goals.case_verdict(record | {"case": [1, 1, 1, 1]}) is None
    assert goals.case_verdict(record | {"peers": {}}) is None
    # The best peer, FA3, takes 80 / 70 = 1.14 of the limit: 1.08 of the limit will do.
    assert goals.trace_verdict(record | {"us": 75.6}) == "met"
    assert goals.trace_verdict(record | {"limit_us": 60.0, "us": 69.5}) == "met"
    assert goals.trace_verdict(record | {"limit_us": 60.0, "us": 72.0}) == "missed by 3.5 %"


def test_host_costs_are_timed_without_a_gpu(load, tmp_path, monkeypatch):
    """Also those of another build, which has the old functions alone."""
    host, library = load("host"), load("digest").ROOT / "bindings" / "python" / "flashmla" / "libflashmla.so.2"
    file = tmp_path / "host.jsonl"
    arguments = ["--device", "cpu", "--rounds", "2", "--seconds", "0.0005", "--record", str(file)]
    monkeypatch.setattr(host.sys, "argv", ["host.py", *arguments, "--library", f"again={library}"])
    assert host.main() == 0
    records = [json.loads(line) for line in file.read_text().splitlines()]
    found = {(record["library"], record["framework"], record["figure"]) for record in records}
    assert {(library, "numpy", "given") for library in ("", "again")} <= found
    assert {("", "C", "entry"), ("", "C", "prepared entry"), ("", "numpy", "prepared q out")} <= found
    assert {record["figure"] for record in records} <= set(host.FIGURES)
    assert all(record["us"] > 0 and record["device"] == "cpu" for record in records if record["framework"] != "C")


def test_a_launch_is_taken_off_what_a_call_on_a_gpu_costs(load):
    host = load("host")
    times = {
        ("", "driver", "launch"): [5.0, 5.2, 4.8],
        ("", "driver", "nothing"): [1.0, 1.0, 1.0],
        ("", "C", "nothing"): [0.2, 0.2, 0.2],
        ("", "C", "entry"): [5.2, 5.1, 5.3],
        ("", "torch", "alone"): [12.0, 11.0, 14.0],
        ("", "flashmla", "given"): [40.0, 40.0, 40.0],
    }
    found = {(record["framework"], record["figure"]): record for record in host.figures(times, "cuda")}
    assert found["torch", "alone"]["beyond_us"] == 4.0
    assert found["torch", "alone"]["spread"] == 0.25
    assert found["C", "entry"] == found["C", "entry"] | {"us": 5.0, "beyond_us": 1.0, "launches": 1}
    assert found["driver", "launch"]["us"] == 4.0
    assert "beyond_us" not in found["flashmla", "given"]
    assert "goal 1: met" in host.line(found["C", "entry"], "cuda")
    assert "goal" not in host.line(found["flashmla", "given"], "cuda")


def test_what_counts_as_a_loss(load):
    records = load("records")
    assert not records.loses({"us": 102.0, "peers": {"flashmla": 100.0, "fa3": 120.0}})
    assert records.loses({"us": 102.1, "peers": {"flashmla": 100.0}})
    assert not records.loses({"us": 1.0, "peers": {}})


@pytest.mark.parametrize("kv_format", ["fp8", "v32", "v32_nope"])
def test_errors_of_quantised_caches_are_measured_in_every_way(load, monkeypatch, kv_format):
    """On a CPU, where every way computes alike; a result that is another one has an error."""
    pytest.importorskip("torch")
    quantised, dense_errors = load("quantised"), load("dense_errors")
    for module in map(load, ("problem", "caches", "contenders")):
        monkeypatch.setattr(module, "DEVICE", "cpu")
    monkeypatch.setattr(load("problem"), "TABLE_PAGES", 32)
    monkeypatch.setattr(load("problem"), "MAX_TABLES", 2)
    cache = load("caches").Cache(kv_format, 32 * 64, mean=0.25)
    p = quantised.problem_of((kv_format, 3, 1, 16, 200), cache)
    errors = quantised.errors(p)
    assert set(errors) == (set(quantised.WAYS) if kv_format == "fp8" else {"bfloat16"})
    assert all(1e-4 < error < 3e-3 for error in errors.values())
    assert p.kv_bytes == 600 * cache.token_bytes
    assert p.flop == 2 * 16 * 600 * (cache.d_qk + 512)
    expected = [dense_errors.expected(p, i) for i in range(p.b)]
    out, lse = map(quantised.torch.stack, zip(*expected, strict=True))
    lse = lse.transpose(1, 2)
    ((rel, lse_error), (wrong, _)) = dense_errors.errors(p, [(out, lse), (out * 1.01, lse)])
    assert rel == lse_error == 0
    assert wrong == pytest.approx(0.01)


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_every_contender_begins_and_ends_as_many_rounds_as_any_other(load, count):
    timing = pytest.importorskip("torch") and load("timing")
    rounds = [timing.order(range(count), i) for i in range(2 * count)]
    assert all(sorted(order) == list(range(count)) for order in rounds)
    for place in (0, -1):
        assert sorted(order[place] for order in rounds) == sorted(2 * list(range(count)))


def test_block_tables_share_no_page_where_the_pool_suffices(load, monkeypatch):
    pytest.importorskip("torch")
    problem = load("problem")
    monkeypatch.setattr(problem, "DEVICE", "cpu")
    monkeypatch.setattr(problem, "TABLE_PAGES", 40)
    lengths = [200, 1, 64]  # 4, 1 and 1 pages
    p = problem.Problem(lengths, 2, 16, problem.Pool(40))
    assert len(p.tables) == problem.MAX_TABLES
    used = [[int(page) for row, n in zip(table, (4, 1, 1), strict=True) for page in row[:n]] for table in p.tables]
    assert all(len(set(pages)) == 6 for pages in used)
    assert len({page for pages in used[:6] for page in pages}) == 36
    assert all((table[1:, 1:] == 0).all() for table in p.tables)
    assert p.attended == 199 + 200 + 0 + 1 + 63 + 64
    assert p.flop == 2 * 16 * p.attended * (576 + 512)
    assert p.kv_bytes == 265 * 1152


def test_stalls_of_each_role(load, tmp_path):
    stalls = load("stalls")
    head = f'"Source","{stalls.SAMPLES}","{stalls.EXECUTED}","stall_wait","stall_long_sb","stall_wait (Not Issued)"'
    rows = [
        '"  S2R R0, SR_TID.X","1","8","1","",""',
        '"  USETMAXREG.TRY_ALLOC.CTAPOOL UP0, 0xa8","2","8","2","0","2"',
        '"  HGMMA.64x64x16.F32.BF16 R24","7","64","0","",""',
        '"  USETMAXREG.DEALLOC.CTAPOOL 0x18","0","4","0","0","0"',
        '"  @!P0 BRA 0x10","90","4","1","89","0"',
    ]
    file = tmp_path / "source.csv"
    file.write_text("\n".join(['"Kernel Name","made up"', head, *rows]) + "\n")
    before, qk, producer = stalls.roles_of(file)
    assert (before.samples, qk.samples, producer.samples) == (1, 9, 90)
    assert (qk.name, producer.name) == ("role 1: 168 registers", "role 2: 24 registers")
    assert producer.causes == {"long_sb": 89, "wait": 1}
    text = stalls.told(producer, 100, 50)
    assert text.startswith("role 2: 24 registers: 90 % of samples, 8 instructions; long_sb 89, wait 1\n")
    assert text.count("\n") == 1
    assert text.endswith("long_sb 89, wait 1")
    assert "none that is sampled" in stalls.told(qk, 100, 7)
