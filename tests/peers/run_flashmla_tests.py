"""Runs a test script of FlashMLA, unmodified, against flashmla.compat.flash_mla. Needs PyTorch and a Hopper GPU.

    git clone https://github.com/deepseek-ai/FlashMLA && git -C FlashMLA checkout 9241ae3
    python tests/peers/run_flashmla_tests.py FlashMLA/tests/test_flash_mla_dense_decoding.py [--dtype fp16]
    python tests/peers/run_flashmla_tests.py [--cases 0::2] FlashMLA/tests/test_flash_mla_sparse_decoding.py

The script stops at the first case that fails. The last line is a record of the run, as JSON, also of one that `timeout`
ended, whose last case then counts as not passed. Of a script that lists its cases first, as the sparse one does,
--cases runs a part, written as a slice. With --cpu it runs the smaller ones on CPU tensors.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path
from unittest import mock

# The script's timing looks for FlashMLA's kernel names in a profiler trace; under a profiler it leaves that out.
os.environ.setdefault("NSYS_PROFILING_SESSION_ID", "1")

import on_cpu
import torch

import flashmla
import flashmla.compat

CASE = "Running on "


TABLES = ("rich", "rich.console", "rich.table")  # for what a script prints at its end


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


def part(text: str) -> slice:
    """ "0::2", as in cases[0::2]."""
    return slice(*(int(number) if number else None for number in text.split(":")))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=part)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("script", type=Path)
    parser.add_argument("options", nargs=argparse.REMAINDER, help="of the script")
    return parser.parse_args()


def stand_in(*names: str) -> bool:
    """For a package that is not installed, and that a run does without. Whether it was needed."""
    missing = importlib.util.find_spec(names[0]) is None
    if missing:
        sys.modules.update({name: mock.MagicMock() for name in names})
    return missing


def run_part(script: Path, given: argparse.Namespace) -> None:
    """The chosen ones of the cases that the script lists."""
    spec = importlib.util.spec_from_file_location("script", script)
    module = importlib.util.module_from_spec(spec)
    without_triton = given.cpu and stand_in("triton")  # its import is for traces of a GPU
    spec.loader.exec_module(module)
    if without_triton:  # before PyTorch looks for it
        del sys.modules["triton"]
    cases = module.gen_testcase()
    if given.cpu:
        cases = [case for case in cases if on_cpu.is_small(case)]
    module.gen_testcase = lambda: cases[given.cases or slice(None)]
    module.main()


def main() -> int:
    given = arguments()
    script = given.script.resolve()
    flashmla.compat.install()
    stand_in(*TABLES)
    if given.cpu:
        on_cpu.patch()
    sys.path.insert(0, str(script.parent))  # as `python script` does: its helpers lie there
    sys.argv = [str(script), *given.options]
    sys.stdout = counter = CaseCounter(sys.stdout)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # KeyboardInterrupt
    start, failed = time.monotonic(), False
    try:
        if given.cpu or given.cases is not None:
            run_part(script, given)
        else:
            runpy.run_path(str(script), run_name="__main__")
    except (Exception, KeyboardInterrupt, SystemExit) as end:  # noqa: BLE001 - a failed case is a result
        failed = not isinstance(end, SystemExit) or end.code not in {None, 0}
        traceback.print_exc()
    record = {
        "script": script.name,
        "arguments": sys.argv[1:],
        "part": None if given.cases is None else str(given.cases),
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
