"""Runs a test script of FlashMLA, unmodified, against flashmla.compat.flash_mla. Needs a Hopper GPU and PyTorch.

    git clone https://github.com/deepseek-ai/FlashMLA && git -C FlashMLA checkout 9241ae3
    python tests/peers/run_flashmla_tests.py FlashMLA/tests/test_flash_mla_dense_decoding.py [--dtype fp16]

The script stops at the first case that fails. The last line is a record of the run, as JSON, also of one that `timeout`
ended, whose last case then counts as not passed.
"""

from __future__ import annotations

import io
import json
import os
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path

# The script's timing looks for FlashMLA's kernel names in a profiler trace; under a profiler it leaves that out.
os.environ.setdefault("NSYS_PROFILING_SESSION_ID", "1")

import torch

import flashmla
import flashmla.compat

CASE = "Running on "


class CaseCounter(io.TextIOBase):
    """Standard output that counts the cases which the script announces."""

    def __init__(self, stream: io.TextIOBase) -> None:
        self.stream = stream
        self.cases = 0

    def write(self, text: str) -> int:
        self.cases += text.startswith(CASE)
        return self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()


def main() -> int:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    script = Path(sys.argv[1]).resolve()
    flashmla.compat.install()
    sys.path.insert(0, str(script.parent))  # as `python script` does: its helpers lie there
    sys.argv = [str(script), *sys.argv[2:]]
    sys.stdout = counter = CaseCounter(sys.stdout)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # KeyboardInterrupt
    start, failed = time.monotonic(), False
    try:
        runpy.run_path(str(script), run_name="__main__")
    except (Exception, KeyboardInterrupt):  # noqa: BLE001 - a failed case is a result
        failed = True
        traceback.print_exc()
    record = {
        "script": script.name,
        "arguments": sys.argv[1:],
        "cases": counter.cases,
        "passed": counter.cases - failed,
        "seconds": round(time.monotonic() - start),
        "flashmla": flashmla.__version__,
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    print(json.dumps(record))
    return int(failed or counter.cases == 0)


if __name__ == "__main__":
    raise SystemExit(main())
