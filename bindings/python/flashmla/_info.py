"""What is installed: `flashmla.info()` and its text form, `python -m flashmla info`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flashmla._cdef import ffi
from flashmla._dynamo import eager
from flashmla._library import ABI_VERSION, PATH, VERSION, lib
from flashmla._scalars import INT32, integer
from flashmla._tuning import tell
from flashmla.errors import DeviceError, check

_FAILURE: int = ffi.integer_const("FLASHMLA_ERROR_DRIVER")


def _text(characters: Any) -> str:
    return str(ffi.string(characters).decode(errors="replace"))


def _dotted(version: int) -> str:
    """10000 * major + 100 * minor + patch, as major.minor.patch."""
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"


def _driver() -> tuple[str | None, str | None]:
    """(CUDA version of the driver, None) or (None, why there is none)."""
    version = ffi.new("int32_t *")
    try:
        check(lib, lib.flashmla_driver_version(version))
    except DeviceError as error:
        return None, str(error)
    return f"{version[0] // 1000}.{version[0] % 1000 // 10}", None


def kernels() -> list[dict[str, Any]]:
    """The kernel table; the fields are those of `flashmla_kernel_info` in core.h."""
    row = ffi.new("flashmla_kernel_info *")
    row.struct_size = ffi.sizeof("flashmla_kernel_info")
    fields = [name for name, _ in ffi.typeof("flashmla_kernel_info").fields if name != "struct_size"]
    table = []
    for index in range(lib.flashmla_kernel_count()):
        check(lib, lib.flashmla_kernel_at(index, row))
        values = {name: getattr(row, name) for name in fields}
        table.append({name: _text(v) if isinstance(v, ffi.CData) else v for name, v in values.items()})
    return table


@eager
def last_kernel() -> str:
    """Name of the main kernel that this thread's last successful operation ran; "" if none. Raises nothing.

    >>> out, lse = flashmla.dense_decode(q, kv_cache, block_table, cache_seqlens)
    >>> flashmla.last_kernel()
    'dense_decode_fp32_cpu'
    """
    return _text(lib.flashmla_last_kernel())


@eager
def read_environment() -> None:
    """Reads the environment variables of the C library again, which it reads when it is loaded, and never in a call.

    Not beside a thread that sets some. What is wrong with their values is `info()["environment_error"]`; nothing is
    raised.

    >>> os.environ["FLASHMLA_NUM_THREADS"] = "2"
    >>> flashmla.read_environment()
    >>> del os.environ["FLASHMLA_NUM_THREADS"]
    >>> flashmla.read_environment()
    """
    lib.flashmla_read_environment()


@eager
def check_report() -> None:
    """Tells what the checking mode (FLASHMLA_CHECK=1) has found in calls on a GPU since the last report.

    It does not wait for them: wait for the stream before. Raises InvalidArgumentError if lengths, query offsets or page
    numbers were out of their range.

    >>> flashmla.check_report()
    """
    check(lib, lib.flashmla_check_report())


@eager
def fail_next(operation: str, status: int = _FAILURE, *, after: int = 0) -> None:
    """Makes a call fail as if the machine had, for tests of what a program does then: see `on_error`.

    operation  its name: the call of it behind `after` others, from now on, on any device
    status     a `flashmla_status` of 2xx or 3xx; FLASHMLA_ERROR_DRIVER if not given
    after      calls that still go well

    Raises InvalidArgumentError for what is no operation or no such status.

    >>> flashmla.fail_next("dense_decode")
    >>> flashmla.dense_decode(q, kv_cache, block_table, cache_seqlens)
    Traceback (most recent call last):
    flashmla.errors.DeviceError: dense_decode fails on request (flashmla_fail_next)
    """
    name = str(operation).encode()
    number = ffi.cast("flashmla_status", integer(status, "status", INT32))  # a negative one is the library's to refuse
    check(lib, lib.flashmla_fail_next(name, number, integer(after, "after", INT32)))


@eager
def info() -> dict[str, Any]:
    """Versions, library, CPU instruction set, driver (or why there is none) and the kernel table. Raises OSError if the
    library's file is gone.

    >>> facts = flashmla.info()
    >>> facts["package_version"] == flashmla.__version__
    True

    `environment_error` says what is wrong with the values of environment variables, or is None. `tuning` tells of the
    tuning file that is loaded: its path, the GPU that it is for, a problem that keeps it from being used on device 0,
    how many entries it has, and what it is compared with: a digest of the kernels.
    """
    driver, driver_error = _driver()
    return {
        "package_version": VERSION,
        "library_version": _dotted(lib.flashmla_version()),
        "abi_version": ABI_VERSION,
        "library_path": PATH,
        "library_bytes": Path(PATH).stat().st_size,
        "environment_error": _text(lib.flashmla_environment_error()) or None,
        "cpu_isa": _text(lib.flashmla_cpu_isa()),
        "driver_version": driver,
        "driver_error": driver_error,
        "tuning": tell(-1 if driver is None else 0),
        "kernels": kernels(),
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows as lines of aligned columns under their names."""
    if not rows:
        return []
    cells = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _tuning_words(tuning: dict[str, Any]) -> str:
    if tuning["problem"] is not None:
        return f"{tuning['path']} is not used: it {tuning['problem']}"
    return f"{tuning['path']}, {tuning['count']} entries for {tuning['gpu']}"


def report() -> str:
    """`info()` for people."""
    facts = info()
    driver = f"CUDA {facts['driver_version']}" if facts["driver_version"] else f"none: {facts['driver_error']}"
    return "\n".join(
        [
            f"flashmla  {facts['package_version']}, ABI {facts['abi_version']}",
            f"library   {facts['library_version']}, {facts['library_bytes']:,} bytes, {facts['library_path']}",
            f"cpu       {facts['cpu_isa']}",
            f"driver    {driver}",
            *([f"tuning    {_tuning_words(facts['tuning'])}"] if facts["tuning"]["path"] else []),
            *(f"warning   {error}" for error in [facts["environment_error"]] if error),
            f"kernels   {len(facts['kernels'])}",
            *(f"  {line}" for line in table(facts["kernels"])),
        ]
    )
