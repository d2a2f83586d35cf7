"""A trace in the columns of the published ones, replayed through a pool of half the blocks of its peak."""

import csv
import random

import pytest

from benchmarks import pool_replay, trace_replay


@pytest.fixture
def trace(tmp_path):
    drawn = random.Random(0)
    path = tmp_path / "trace.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["TIMESTAMP", "ContextTokens", "GeneratedTokens"])
        for i in range(150):
            writer.writerow([i, drawn.choice([2, 64, 257, 300, 420, 700]), drawn.randint(1, 90)])
    return path


@pytest.fixture
def all_sampled(monkeypatch):
    monkeypatch.setattr(pool_replay, "SAMPLED", 3)


@pytest.mark.usefixtures("all_sampled")
def test_every_page_is_accounted_for_and_outputs_are_right(trace):
    done = pool_replay.replayed(trace_replay.read(trace), 12)
    assert done.leftover() == ""
    assert done.checked == 50
    assert done.swaps > 5
    assert done.shared > 5000
    assert done.blocks < 12 * 13 // 2


@pytest.mark.usefixtures("all_sampled")
def test_a_row_that_was_lost_is_noticed(trace, monkeypatch):
    swap_in = pool_replay.flashmla.PagedKVCache.swap_in

    def losing(self, seq):
        swap_in(self, seq)
        self.kv_cache[0][self.blocks(seq)[0]] = 0

    monkeypatch.setattr(pool_replay.flashmla.PagedKVCache, "swap_in", losing)
    with pytest.raises(AssertionError, match="attends other rows than it wrote"):
        pool_replay.replayed(trace_replay.read(trace), 12)


@pytest.mark.parametrize("program", [pool_replay, trace_replay], ids=lambda module: module.__name__)
@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--help"], 0, "continuous batching"),
        ([], 2, "are required"),
        (["a=/none/such.csv"], 2, "no trace: "),
        (["a=WRONG"], 2, "no trace: 'ContextTokens'"),
    ],
)
def test_the_programs_tell_what_they_want(program, arguments, status, said, tmp_path, monkeypatch, capsys):
    (tmp_path / "a=WRONG").write_text("one,two\n1,2\n")
    (tmp_path / "WRONG").write_text("one,two\n1,2\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["program", *arguments])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == status
    told = capsys.readouterr()
    assert said in told.out + told.err
