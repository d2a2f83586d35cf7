"""`flashmla.profile()`: the calls of a stretch of a program, what they take, and what would make them faster."""

from __future__ import annotations

import importlib
import importlib.util
import json
import threading
import time
from pathlib import Path
from typing import Any

from flashmla._cdef import ffi
from flashmla._dynamo import eager
from flashmla._info import table
from flashmla._library import lib
from flashmla._options import MADE
from flashmla._profile_advice import Advice, advice
from flashmla._profile_pictures import picture
from flashmla._profile_records import Group, Record, grouped, read
from flashmla._scalars import INT32, flag, integer
from flashmla.errors import check, invalid

_LENGTHS: int = ffi.integer_const("FLASHMLA_PROFILE_LENGTHS")
_PYTHON_NAMES: int = ffi.integer_const("FLASHMLA_PYTHON_NAMES")
_PATIENCE = 30.0  # seconds that a report waits for the device
_running: list[Profile] = []
"""The profile whose records the library holds: none or one."""
_lock = threading.Lock()
"""Of `_running`, from what the library tells to where it belongs: any thread may look at a report."""


class Profile:
    """What `profile` gives: calls are recorded within its `with`, by all threads; afterwards it is the report.

    `str(report)` is a table of operations and shapes with advice, `to_dict()` the figures, `records` the calls one by
    one, `save(path)` a picture or a file of figures. A report waits until the device is done with the calls, half a
    minute at most; it raises nothing where a device fails, whose calls have no time then.

    >>> with flashmla.profile() as report:
    ...     out, lse = flashmla.dense_decode(q, kv_cache, block_table, cache_seqlens)
    >>> [(group["operation"], group["calls"]) for group in report.to_dict()["groups"]]
    [('dense_decode', 1)]
    """

    def __init__(self, options: Any) -> None:
        self._options = options
        self._records: list[Record] = []
        self._state: tuple[int, int, int] = (0, 0, 0)
        self._made = 0
        self._entered = self._open = False

    def __enter__(self) -> Profile:  # noqa: PYI034 - Python 3.10 has no Self
        if self._entered:
            raise invalid("FLASHMLA_ERROR_VALUE", "a profile is entered once: flashmla.profile() makes another")
        with _lock:
            for other in _running:
                other._read_locked()  # noqa: SLF001 - what the next profile would drop
            check(lib, lib.flashmla_profile_start(self._options))
            self._entered = self._open = True
            _running[:] = [self]
        MADE.on, MADE.calls = True, 0
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._open:  # it was left before: another one may be running
            return
        self._open = False
        lib.flashmla_profile_stop()
        MADE.on, self._made = False, MADE.calls
        self._read()

    def _read(self) -> None:
        """What is complete by now."""
        with _lock:
            self._read_locked()

    def _read_locked(self) -> None:
        if self in _running:  # another profile's records are not this one's
            found, state = read()
            self._records += found
            self._state = (state.calls, state.dropped, state.left)

    def _wait(self) -> None:
        """Until the device is done with what was recorded."""
        end = time.monotonic() + _PATIENCE
        self._read()
        while self in _running and self._state[2] and time.monotonic() < end:
            time.sleep(1e-3)
            self._read()

    @property
    def records(self) -> list[Record]:
        """The calls in the order of their ends: fields of flashmla_call_record in profile.h."""
        self._wait()
        return self._records

    @property
    def dropped(self) -> int:
        """Calls that there was no room for: the oldest."""
        self._wait()
        return self._state[1]

    def _groups(self) -> list[Group]:
        return grouped(self.records)

    def advice(self) -> list[Advice]:
        """What would make it faster, by the rules of docs/profiling.md: (rule, about, sentence)."""
        return advice(self._groups(), self._made)

    def to_dict(self) -> dict[str, Any]:
        """Figures by operation and shape, the limits of the devices, and the advice; JSON takes it as it is."""
        groups = self._groups()
        limits = {group.device_id: group.limits for group in groups if group.limits is not None}
        return {
            "calls": self._state[0],
            "dropped": self._state[1],
            "unfinished": self._state[2],
            "outputs_made": self._made,
            "limits": {f"cuda:{number}": vars(found) for number, found in limits.items()},
            "groups": [group.to_dict() for group in groups],
            "advice": [one._asdict() for one in advice(groups, self._made)],
        }

    def __str__(self) -> str:
        groups = self._groups()
        if not groups:
            return "no calls were recorded"
        lines = table([_row(group) for group in groups])
        calls, dropped, left = self._state
        lines.append(f"{calls} calls" + (f", of which {dropped} were dropped" if dropped else ""))
        if left:
            lines.append(f"{left} calls are not done on their device")
        if any(not group.on_gpu for group in groups):
            lines.append("of the CPU no limit is known; its times are those of the host")
        for one in advice(groups, self._made):
            lines.append(f"* {one.about}: {one.sentence}")
        return "\n".join(lines)

    def save(self, path: str | Path) -> None:
        """Draws a roofline with the calls on it, and a timeline of operations: an .svg file, or a .png file where the
        package cairosvg is installed. A .json file has the figures of `to_dict`, which `python -m flashmla tune` reads.
        Raises InvalidArgumentError for another name, ImportError without that package.
        """
        target = Path(path)
        if target.suffix not in {".svg", ".png", ".json"}:
            raise invalid("FLASHMLA_ERROR_VALUE", f"path is {str(path)!r}; it must end with .svg, .png or .json")
        if target.suffix == ".json":
            target.write_text(json.dumps(self.to_dict(), indent=1))
            return
        drawn = picture(self._groups(), "Calls of flashmla")
        if target.suffix == ".svg":
            target.write_text(drawn)
            return
        if importlib.util.find_spec("cairosvg") is None:
            raise ImportError(f"{str(path)!r} needs the package cairosvg, which is not installed; .svg needs nothing")
        importlib.import_module("cairosvg").svg2png(bytestring=drawn.encode(), write_to=str(target))


def _figure(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _row(group: Group) -> dict[str, str]:
    bandwidth, rate, share = group.rate("bytes"), group.rate("flop"), group.share
    return {
        "operation": group.operation,
        "shape": group.shape,
        "calls": str(len(group.records)),
        "device us": _figure(group.median_us("device_ns")),
        "host us": _figure(group.median_us("host_ns")),
        "GB/s": _figure(bandwidth and bandwidth / 1e9),
        "TFLOP/s": _figure(rate and rate / 1e12, 3),
        "limit": "-" if share is None else f"{share:.0%}",
        "workspace": f"{max(record['workspace_bytes'] for record in group.records):,}",
        "kernel": group.kernel or "-",
    }


@eager
def profile(*, lengths: bool = False, max_records: int = 0, max_pending: int = 0) -> Profile:
    """Records the calls within a `with`, from all threads, and reports what they take and what would be faster.

    lengths      True: lengths on a GPU are copied to the host before each timed call, and bytes and FLOP count them;
                 False: the capacity of tables and selections. On the CPU lengths are always counted
    max_records  calls that are kept, the newest; 0: 16,384
    max_pending  calls on a device whose time is kept until it is read, the newest; 0: 2,048

    A call takes 2 us longer on a GPU at most while all are timed, 0.3 on the CPU, and waits for nothing. The first 256
    calls are timed on their GPU, the first 8 of a shape behind those, and a sixteenth of the others, at random. A
    process has one profile at a time: a second one raises InvalidArgumentError, as does a number out of range. See
    `Profile` and docs/profiling.md.

    >>> with flashmla.profile() as report:
    ...     for layer in range(8):
    ...         out, lse = flashmla.dense_decode(q, kv_cache, block_table, cache_seqlens)
    >>> report.advice()[0].rule
    'give outputs'
    """
    options = ffi.new("flashmla_profile_options *")
    options.struct_size = ffi.sizeof("flashmla_profile_options")
    options.flags = _PYTHON_NAMES | (_LENGTHS if flag(lengths, "lengths") else 0)
    options.max_records = integer(max_records, "max_records", INT32)
    options.max_pending = integer(max_pending, "max_pending", INT32)
    return Profile(options)
