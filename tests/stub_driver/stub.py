"""Builds the stub driver, runs a test's code in a process that finds it, and reads what the library called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import build
import operations
from stub_driver import launches

HERE = Path(__file__).parent
# The driver functions that the library needs, and the CUDA version each appeared in (CUDA Driver API release notes).
SINCE = {
    "cuInit": "2.0",
    "cuDriverGetVersion": "2.2",
    "cuGetErrorString": "6.0",
    "cuDeviceGetCount": "2.0",
    "cuDeviceGet": "2.0",
    "cuDeviceGetAttribute": "2.0",
    "cuDeviceGetName": "2.0",
    "cuDevicePrimaryCtxRetain": "7.0",
    "cuCtxGetCurrent": "4.0",
    "cuCtxGetDevice": "2.0",
    "cuCtxPushCurrent_v2": "4.0",
    "cuCtxPopCurrent_v2": "4.0",
    "cuStreamIsCapturing": "10.0",
    "cuMemHostAlloc": "2.2",
    "cuPointerGetAttribute": "4.0",
    "cuStreamSynchronize": "2.0",
    "cuStreamCreate": "2.0",
    "cuStreamDestroy_v2": "4.0",
    "cuStreamWaitEvent": "3.2",
    "cuEventCreate": "2.0",
    "cuEventDestroy_v2": "4.0",
    "cuEventRecord": "2.0",
    "cuEventQuery": "2.0",
    "cuMemcpyAsync": "4.0",
    "cuMemsetD32Async": "3.2",
    "cuThreadExchangeStreamCaptureMode": "10.1",
    "cuEventElapsedTime": "2.0",
    "cuLibraryLoadData": "12.0",
    "cuLibraryGetKernel": "12.0",
    "cuKernelSetAttribute": "12.0",
    "cuOccupancyMaxActiveClusters": "11.8",
    "cuLaunchKernelEx": "11.8",
    "cuTensorMapEncodeTiled": "12.0",
    "cuTensorMapReplaceAddress": "12.0",
}
OPTIONAL = {"cuKernelGetParamInfo": "12.4"}


def compile_stub(folder: Path, exports: set[str]) -> Path:
    """libcuda.so.1 in `folder`, exporting these functions alone."""
    folder.mkdir()
    names = "; ".join(sorted(exports | {"stub_*"}))
    script = folder / "exports.map"
    script.write_text(f"{{ global: {names}; local: *; }};\n")
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    made = folder / "libcuda.so.1"
    link = ["-Wl,-soname,libcuda.so.1", f"-Wl,--version-script={script}", "-o", made, "-lpthread"]
    includes = [f"-I{HERE}", f"-I{build.SOURCE}", f"-I{build.INCLUDE}", f"-I{folder}"]
    sources = [HERE / f"{name}.c" for name in ("libcuda", "streams", "log")]
    (folder / "parameter_sizes.h").write_text(launches.sizes_header())
    subprocess.run([build.compiler(), *flags, *includes, *sources, *link], check=True)
    return made


@dataclass
class Ran:
    """A process that has ended: what it told, in order, and every driver call."""

    told: list
    calls: list[dict]

    def of(self, *names: str) -> list[dict]:
        """The calls of these functions."""
        return [call for call in self.calls if call["call"] in names]

    def names(self) -> list[str]:
        return [call["call"] for call in self.calls]

    def launches(self) -> list[dict]:
        return self.of("cuLaunchKernelEx")


@dataclass
class Stub:
    """A compiled stub driver."""

    library: Path
    folder: Path  # for logs

    def run(
        self, code: str, *, flashmla_library: Path | None = None, force_kernel: str | None = None, **settings: object
    ) -> Ran:
        """Runs Python `code` with the names of the host.py files; `settings`: STUB_ variables."""
        log = self.folder / f"calls-{len(list(self.folder.iterdir()))}.jsonl"
        log.touch()
        paths = os.pathsep.join([str(HERE.parent), *sys.path])
        hosts = ["stub_driver.host", *(f"ops.{name}.host" for name in operations.having("host"))]
        imports = "\n".join(f"from {host} import *" for host in hosts)
        forced = {"FLASHMLA_LIBRARY": str(flashmla_library)} if flashmla_library else {}
        if force_kernel is not None:
            forced["FLASHMLA_FORCE_KERNEL"] = force_kernel
        done = subprocess.run(
            [sys.executable, "-"],
            input=f"{imports}\n{code}\n",
            env={
                **os.environ,
                "PYTHONPATH": paths,
                "LD_LIBRARY_PATH": str(self.library.parent),
                "STUB_LOG": str(log),
                **{f"STUB_{name.upper()}": str(value) for name, value in settings.items()},
                **forced,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        told = [json.loads(line) for line in done.stdout.splitlines()]
        return Ran(told, [json.loads(line) for line in log.read_text().splitlines()])
