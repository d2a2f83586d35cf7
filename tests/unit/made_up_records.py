"""Records of calls on a GPU that was never there, for tests of what is made of them."""

from __future__ import annotations

from flashmla._profile_records import Group, Limits, Record

H100 = Limits(3.35e12, 9.9e14)
BLANK: Record = {
    "operation": "dense_decode",
    "kernel": "dense_decode_bf16_576_cluster2",
    "dtype": "bfloat16",
    "kv_format": 0,
    "device_id": 0,
    "batch": 128,
    "s_q": 1,
    "total_q": 0,
    "h_q": 128,
    "h_kv": 1,
    "d_qk": 576,
    "d_v": 512,
    "page_size": 64,
    "topk": 0,
    "num_tokens": 0,
    "num_states": 0,
    "flags": ["counted"],
    "number": 0,
    "stream": 0,
    "begin_ns": 0,
    "host_ns": 6_000,
    "device_begin_ns": 0,
    "device_ns": 250_000,
    "bytes": 600_000_000,
    "flop": 140_000_000_000,
    "workspace_bytes": 0,
    "tokens": 524_288,
    "device_time": "known",
    "parts": 132,
    "cluster": 1,
    "num_splits": 0,
    "capacity": 4096,
    "extra_topk": 0,
    "window": 0,
}


def record(**facts) -> Record:
    assert set(facts) <= set(BLANK)
    return BLANK | facts


def group(count: int = 1, **facts) -> Group:
    """Calls alike, one behind the other."""
    made = record(**facts)
    step = made["device_ns"] + 50_000
    calls = [made | {"number": i, "device_begin_ns": i * step, "begin_ns": i * step} for i in range(count)]
    return Group(calls, H100 if made["device_id"] >= 0 else None)
