"""Records of a profile as the library tells them, grouped by operation and shape."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flashmla._cdef import ffi
from flashmla._library import lib
from flashmla.errors import DeviceError, InvalidArgumentError, check

Record = dict[str, Any]
_TEXTS = frozenset({"operation", "kernel", "dtype"})
_AT_ONCE = 1024
_FLAGS = {
    name.removeprefix("FLASHMLA_CALL_").lower(): number
    for name, number in ffi.typeof("flashmla_call_flags").relements.items()
}
_TIMES = {
    number: name.removeprefix("FLASHMLA_TIME_").lower()
    for number, name in ffi.typeof("flashmla_device_time").elements.items()
}
FORMATS: dict[int, str] = {
    number: name.removeprefix("FLASHMLA_KV_").lower()
    for number, name in ffi.typeof("flashmla_kv_format").elements.items()
}
# What tells groups apart.
_KEY = (
    *("operation", "kernel", "dtype", "kv_format", "device_id", "batch", "s_q", "total_q", "h_q", "h_kv", "d_qk"),
    *("d_v", "page_size", "window", "topk", "extra_topk", "num_tokens", "num_states"),
)


def _values(record: Any) -> Record:
    """A record of C: texts as such, flags as a set of names, the state of the device time by its name."""
    found: Record = {}
    for name, _ in ffi.typeof("flashmla_call_record").fields:
        value = getattr(record, name)
        if name in _TEXTS:
            value = ffi.string(value).decode()
        elif name == "stream":
            value = int(ffi.cast("uintptr_t", value))
        found[name] = value
    del found["struct_size"]
    found["flags"] = sorted(name for name, bit in _FLAGS.items() if record.flags & bit)
    found["device_time"] = _TIMES[record.device_time]
    return found


def read() -> tuple[list[Record], Any]:
    """Takes out the records that are complete; the last is the library's state."""
    records = ffi.new("flashmla_call_record[]", _AT_ONCE)
    state = ffi.new("flashmla_profile_state *")
    state.struct_size = ffi.sizeof("flashmla_profile_state")
    found: list[Record] = []
    while True:
        records[0].struct_size = ffi.sizeof("flashmla_call_record")
        check(lib, lib.flashmla_profile_read(records, _AT_ONCE, state))
        found += [_values(record) for record in records[0 : state.count]]
        if state.count < _AT_ONCE:
            return found, state


@dataclass(frozen=True)
class Limits:
    """What a device can do at most, by its own attributes; a rate of 0 is not known."""

    bytes_per_second: float
    flop_per_second: float

    def seconds(self, moved: float, flop: float) -> float:
        """The least time that so many bytes and FLOP take."""
        compute = flop / self.flop_per_second if self.flop_per_second else 0.0
        return max(moved / self.bytes_per_second if self.bytes_per_second else 0.0, compute)


def limits_of(device_id: int) -> Limits | None:
    """None for the CPU, and where the driver does not tell."""
    if device_id < 0:
        return None
    found = ffi.new("flashmla_device_limits *")
    found.struct_size = ffi.sizeof("flashmla_device_limits")
    try:
        check(lib, lib.flashmla_device_limits_of(device_id, found))
    except (DeviceError, InvalidArgumentError):
        return None
    return Limits(found.bytes_per_second, found.flop_per_second)


def _counted(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if "counted" in record["flags"]]


@dataclass(frozen=True)
class Group:
    """Calls of one operation and shape."""

    records: Sequence[Record]
    limits: Limits | None

    def __getattr__(self, name: str) -> Any:
        """A fact that the calls share."""
        if name in _KEY:
            return self.records[0][name]
        raise AttributeError(name)

    @property
    def on_gpu(self) -> bool:
        return bool(self.device_id >= 0)

    @property
    def timed(self) -> list[Record]:
        """Calls whose time is known: on the CPU that of the host."""
        return [r for r in self.records if r["device_time"] == "known"] if self.on_gpu else list(self.records)

    @property
    def seconds(self) -> float | None:
        """Of all timed calls together."""
        times = [r["device_ns"] if self.on_gpu else r["host_ns"] for r in self.timed]
        return sum(times) / 1e9 if times else None

    def count(self, flag: str) -> int:
        """Calls with a flag of flashmla_call_flags, by its name."""
        return sum(flag in record["flags"] for record in self.records)

    def median_us(self, name: str) -> float | None:
        """Of `device_ns` or `host_ns`."""
        values = [r[name] for r in (self.timed if name == "device_ns" else self.records) if r[name] >= 0]
        return statistics.median(values) / 1e3 if values else None

    def rate(self, name: str) -> float | None:
        """`bytes` or `flop` a second of the timed calls."""
        total = float(sum(record[name] for record in self.timed))
        return total / self.seconds if self.seconds else None

    @property
    def intensity(self) -> float:
        """FLOP a byte, of the timed calls if there are some."""
        records = self.timed or self.records
        return float(sum(r["flop"] for r in records) / max(sum(r["bytes"] for r in records), 1))

    @property
    def share(self) -> float | None:
        """Of the device's limit: the least time of the timed calls by theirs."""
        if self.limits is None or not self.seconds:
            return None
        return sum(self.limits.seconds(r["bytes"], r["flop"]) for r in self.timed) / self.seconds

    @property
    def tables(self) -> list[dict[str, Any]]:
        """Calls by the room of their tables or selections, with the mean of the tokens of a request: of those whose
        lengths were counted, if there are some.
        """
        rooms: dict[int, list[Record]] = {}
        for record in self.records:
            rooms.setdefault(record["capacity"], []).append(record)
        return [
            {
                "capacity": room,
                "calls": len(records),
                "tokens": statistics.mean(r["tokens"] / max(r["batch"], 1) for r in _counted(records) or records),
            }
            for room, records in sorted(rooms.items())
        ]

    @property
    def shape(self) -> str:
        """In words, for people."""
        words = [
            f"b {self.batch}" if self.batch else "",
            f"s_q {self.s_q}" if self.s_q else "",
            f"total_q {self.total_q}" if self.total_q else "",
            f"h {self.h_q}/{self.h_kv}" if self.h_q and self.h_kv else f"h {self.h_q}" if self.h_q else "",
            f"d {self.d_qk}/{self.d_v}" if self.d_qk and self.d_v else "",
            f"page {self.page_size}" if self.page_size else "",
            f"window {self.window}" if self.window else "",
            f"topk {self.topk}" if self.topk else "",
            f"extra {self.extra_topk}" if self.extra_topk else "",
            f"tokens {self.num_tokens}" if self.num_tokens else "",
            f"states {self.num_states}" if self.num_states else "",
            self.dtype,
            FORMATS[self.kv_format] if self.kv_format else "",
        ]
        return ", ".join(word for word in words if word)

    def to_dict(self) -> dict[str, Any]:
        """Figures for machines: None where there is none."""
        facts = {name: getattr(self, name) for name in _KEY} | {"kv_format": FORMATS[self.kv_format]}
        return facts | {
            "calls": len(self.records),
            "timed_calls": len(self.timed),
            "device_us": self.median_us("device_ns"),
            "host_us": self.median_us("host_ns"),
            "seconds": self.seconds,
            "bytes": sum(r["bytes"] for r in self.records),
            "flop": sum(r["flop"] for r in self.records),
            "bytes_per_second": self.rate("bytes"),
            "flop_per_second": self.rate("flop"),
            "limit_share": self.share,
            "workspace_bytes": max(r["workspace_bytes"] for r in self.records),
            "tables": self.tables,
            "parts": max(r["parts"] for r in self.records),
            **{f"calls_{name}": self.count(name) for name in _FLAGS},
        }


def grouped(records: Sequence[Record]) -> list[Group]:
    """Groups, those first that take the most time, as far as the timed calls are like the others."""
    found: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        found.setdefault(tuple(record[name] for name in _KEY), []).append(record)
    limits = {device_id: limits_of(device_id) for device_id in {r["device_id"] for r in records}}
    groups = [Group(group, limits[group[0]["device_id"]]) for group in found.values()]
    return sorted(groups, key=lambda group: -(group.seconds or 0.0) * len(group.records) / max(len(group.timed), 1))
