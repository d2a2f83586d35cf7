"""The suite for compute-sanitizer launches every row of the kernel table, and splits with every kernel that can."""

from __future__ import annotations

import re

import flashmla

CODE = """
import operations
from pool import sanitizer_cases
for module in [*operations.modules("sanitizer_cases").values(), sanitizer_cases]:
    module.launch_all(tell)
"""


def test_every_row_is_launched(cuda_12_0):
    ran = cuda_12_0.run(CODE)
    launched = {re.match(r"flashmla_(\w+?)_kernel_", launch["kernel"])[1] for launch in ran.launches()}
    rows = [row for row in flashmla.info()["kernels"] if row["target"] != "cpu"]
    assert launched == {row["name"] for row in rows}
    assert all(forced == found for forced, found, _ in ran.told)
    decoding = {row["name"] for row in rows if row["operation"] in {"dense_decode", "sparse_decode"}}
    assert decoding <= {forced for forced, _, is_split in ran.told if is_split}
