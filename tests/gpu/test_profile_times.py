"""Profiles on a GPU: device times beside PyTorch's events, lengths, captures, streams, and that results stay."""

from __future__ import annotations

import pytest

import flashmla

torch = pytest.importorskip("torch")


@pytest.fixture
def inputs(gpu):
    del gpu
    draw = torch.Generator("cuda").manual_seed(0)
    batch, pages = 64, 32
    q = torch.randn(batch, 1, 128, 576, generator=draw, device="cuda").bfloat16()
    kv_cache = torch.randn(batch * pages, 64, 1, 576, generator=draw, device="cuda").bfloat16()
    table = torch.randperm(batch * pages, generator=draw, device="cuda").int().reshape(batch, pages)
    lengths = torch.full((batch,), 64 * pages, dtype=torch.int32, device="cuda")
    return q, kv_cache, table, lengths


def test_device_times_are_those_of_other_events(inputs):
    plan = flashmla.plan_decode(*inputs)
    flashmla.dense_decode(*inputs, plan=plan)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with flashmla.profile() as report:
        flashmla.dense_decode(*inputs, plan=plan)  # makes the events
        torch.cuda._sleep(20_000_000)  # so that the host is ahead
        begin.record()
        for _ in range(20):
            flashmla.dense_decode(*inputs, plan=plan)
        end.record()
    torch.cuda.synchronize()
    records = report.records[1:]
    assert {record["device_time"] for record in records} == {"known"}
    total = sum(record["device_ns"] for record in records) / 1e6
    assert total == pytest.approx(begin.elapsed_time(end), rel=0.15)
    starts = [record["device_begin_ns"] for record in records]
    assert starts == sorted(starts)
    (group,) = report.to_dict()["groups"]
    assert 0.2 < group["limit_share"] < 1.1


def test_lengths_are_counted(inputs):
    q, kv_cache, table, lengths = inputs
    lengths = torch.arange(len(lengths), dtype=torch.int32, device="cuda") * 10
    with flashmla.profile(lengths=True) as report:
        flashmla.dense_decode(q, kv_cache, table, lengths)
        lengths.fill_(7)
    (record,) = report.records
    assert record["tokens"] == 10 * sum(range(len(lengths)))
    assert "counted" in record["flags"]


def test_a_capture_goes_well_and_is_told(inputs):
    flashmla.dense_decode(*inputs)
    out = torch.empty_like(inputs[0][..., :512])
    graph = torch.cuda.CUDAGraph()
    with flashmla.profile() as report:
        with torch.cuda.graph(graph):
            flashmla.dense_decode(*inputs, out=out, return_lse=False)
        flashmla.dense_decode(*inputs)
    graph.replay()
    torch.cuda.synchronize()
    assert [record["device_time"] for record in report.records] == ["captured", "known"]
    assert torch.equal(out, flashmla.dense_decode(*inputs)[0])


def test_reading_while_another_thread_captures_leaves_the_capture(inputs):
    """Queries of events are forbidden then, but to a thread that says it knows."""
    import threading

    flashmla.dense_decode(*inputs)
    graph, out = torch.cuda.CUDAGraph(), torch.empty_like(inputs[0][..., :512])
    with flashmla.profile() as report:
        flashmla.dense_decode(*inputs)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            flashmla.dense_decode(*inputs, out=out, return_lse=False)
            reader = threading.Thread(target=lambda: report.records)
            reader.start()
            reader.join()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, flashmla.dense_decode(*inputs)[0])


def test_streams_and_prepared_calls(inputs):
    prepared = flashmla.prepare(flashmla.dense_decode, *inputs)
    streams = [torch.cuda.Stream() for _ in range(2)]
    torch.cuda.synchronize()
    with flashmla.profile() as report:
        for stream in streams:
            with torch.cuda.stream(stream):
                prepared()
            stream.synchronize()
    assert [record["stream"] for record in report.records] == [stream.cuda_stream for stream in streams]
    assert all("prepared" in record["flags"] and record["device_ns"] > 0 for record in report.records)


def test_a_failure_is_saved_on_the_cpu(inputs):
    q, kv_cache, table, lengths = inputs
    small = q[:2], kv_cache, table[:2], lengths[:2]
    expected, _ = flashmla.dense_decode(*small)
    flashmla.fail_next("dense_decode")
    before = flashmla.on_error("cpu")
    try:
        with pytest.warns(RuntimeWarning, match="on request"):
            out, lse = flashmla.dense_decode(*small)
    finally:
        flashmla.on_error(before)
    assert out.is_cuda
    assert lse.is_cuda
    torch.testing.assert_close(out, expected, rtol=2e-2, atol=2e-3)
