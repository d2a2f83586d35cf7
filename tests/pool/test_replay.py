"""Traces replayed through a pool of half the blocks of their peak: a short one, an hour of both services whose lengths
are published, and the published files where FLASHMLA_TRACES names their folder."""

import csv
import os
import random
import sys
from pathlib import Path

import pytest

from benchmarks import pool_replay, trace_replay

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples" / "python"))
import traffic

CONCURRENT = 256
TRACES = os.environ.get("FLASHMLA_TRACES", "")


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


def replay_whole(requests) -> None:
    """Every request, one in a hundred with its rows."""
    done = pool_replay.replayed(requests, CONCURRENT)
    assert done.leftover() == ""
    assert done.checked == -(-len(requests) // pool_replay.SAMPLED)
    assert done.swaps > 100
    assert done.shared > 200 * len(requests)


@pytest.mark.parametrize("service", sorted(traffic.SERVICES))
def test_an_hour_of_a_service(service):
    """As many requests as came in the published hour, of its distribution of lengths."""
    published = traffic.SERVICES[service]
    requests = traffic.draw(published, published.requests, 1.0, seed=0)
    replay_whole([(request.context, request.generated) for request in requests])


@pytest.mark.skipif(not TRACES, reason="FLASHMLA_TRACES names no folder with the published traces")
@pytest.mark.parametrize("service", sorted(traffic.SERVICES))
def test_a_published_trace(service):
    requests = trace_replay.read(Path(TRACES) / f"AzureLLMInferenceTrace_{service}.csv")
    assert len(requests) == traffic.SERVICES[service].requests
    replay_whole(requests)


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
