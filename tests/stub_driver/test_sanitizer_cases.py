"""The suite for compute-sanitizer launches every row of the kernel table, and splits with every dense_decode kernel."""

from __future__ import annotations

import re

import flashmla

CODE = """
import os
import merging
from flashmla._cdef import ffi
from gpu.sanitizer_cases import FORCE, decode_cases, merge_cases, rows_of
from c_abi import new_plan
from made_up import decode_call, merge_call, plan_call, run

for row in rows_of("dense_decode"):
    os.environ[FORCE] = row["name"]
    for case in decode_cases(132):
        if case.dtype != row["dtype"]:
            continue
        planned = new_plan() if case.plan != "none" else None
        if planned is not None and run(plan_call(case), planned):
            continue
        status = run(decode_call(case, plan=planned))
        if status == 0:
            tell(row["name"], ffi.string(lib.flashmla_last_kernel()).decode(), case.num_splits)
        elif status != c_abi.constant("ERROR_UNSUPPORTED"):
            raise SystemExit(last_error())
    del os.environ[FORCE]
for case in merge_cases():
    if merge_call(case).run():
        raise SystemExit(last_error())
"""


def test_every_row_is_launched(cuda_12_0):
    ran = cuda_12_0.run(CODE)
    launched = {re.match(r"flashmla_(\w+?)_kernel_", launch["kernel"])[1] for launch in ran.launches()}
    rows = [row for row in flashmla.info()["kernels"] if row["target"] != "cpu"]
    assert launched == {row["name"] for row in rows}
    assert all(forced == found for forced, found, _ in ran.told)
    decoding = {row["name"] for row in rows if row["operation"] == "dense_decode"}
    assert {forced for forced, _, num_splits in ran.told if num_splits > 1} == decoding
