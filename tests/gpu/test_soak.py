"""Races and deadlocks that a few calls do not show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_ragged_batches_over_and_over():
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("soak.py")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    assert done.stdout.endswith("the same bits every time\n"), done.stdout + done.stderr
