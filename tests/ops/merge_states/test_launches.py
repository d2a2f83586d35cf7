"""What merge_states asks the driver to launch, on a stub of CUDA 12.0."""

from __future__ import annotations

import math
import re

import pytest

from buffers import DTYPES
from dsl_kernels.core.variant import SHORT_DTYPES
from ops.merge_states.calls import MergeCase
from ops.merge_states.shape_only import ADDRESSES
from stub_driver.launches import CLUSTER, PROCESSORS, QUIET, decoded, same


def merge_params(case: MergeCase) -> dict:
    """Those of merge_states, of a call by shape_only.merge_call: every part is compact."""
    stacked = case.stacked or case.num_states == 2  # two that are listed always lie in an even distance
    batch = 1 if case.batch is None else case.batch
    rows = batch * case.s_q * case.h_q
    codes = {"bfloat16": 0, "float16": 1, "float32": 2}
    out_strides = {"b": rows // batch * case.d_v, "s": case.h_q * case.d_v, "h": case.d_v}
    lse_strides = {"b": rows // batch, "h": case.s_q, "s": 1}
    extents = {"b": batch, "s": case.s_q, "h": case.h_q}
    found = {
        "result": ADDRESSES["out"],
        "result_lse": ADDRESSES["lse"],
        "num_states": case.num_states,
        "stacked": int(stacked),
        "rows": rows,
        "s_q": case.s_q,
        "h_q": case.h_q,
        "chunks": case.d_v // 8,
        "result_dtype": codes[case.out_dtype or case.dtype],
        "to_log2": 1.0 if case.lse_base2 else math.log2(math.e),
        "lse_factor": 1.0 if case.lse_base2 else math.log(2),
        "empty_lse": -math.inf if case.empty_lse_minus else math.inf,
    }
    if case.stacked:
        found |= {"out_state_stride": rows * case.d_v, "lse_state_stride": rows}
    elif stacked:
        found |= {"out_state_stride": 2**36 // DTYPES[case.dtype].itemsize, "lse_state_stride": 2**36 // 4}
    parts = range(1 if stacked else case.num_states)
    found |= {f"out_{i}": ADDRESSES["outs"] + (i * i << 36) for i in parts}
    found |= {f"lse_{i}": ADDRESSES["lses"] + (i * i << 36) for i in parts}
    for axis, extent in extents.items():
        if extent > 1:
            found |= {f"result_stride_{axis}": out_strides[axis], f"result_lse_stride_{axis}": lse_strides[axis]}
            found |= {f"out_{i}_stride_{axis}": out_strides[axis] for i in parts}
            found |= {f"lse_{i}_stride_{axis}": lse_strides[axis] for i in parts}
    return found


MERGES = [
    MergeCase(),
    MergeCase(dtype="float16", num_states=16, batch=3, s_q=2, h_q=5, out_dtype="float32"),
    MergeCase(dtype="float32", num_states=3, batch=None, s_q=7, h_q=16, d_v=8, lse_base2=True),
    MergeCase(num_states=40, stacked=True, batch=2, s_q=1, h_q=128, empty_lse_minus=True, out_dtype="float32"),
    MergeCase(num_states=5, batch=100, s_q=2, h_q=128, d_v=256),
]


@pytest.mark.parametrize("case", MERGES, ids=lambda case: case.dtype)
def test_a_merge_is_one_launch(cuda_12_0, case):
    ran = cuda_12_0.run(f"merge({case!r})")
    assert [line[:3] for line in ran.told] == [[0, "", 0]]
    [launch] = ran.launches()
    name = f"merge_states_{SHORT_DTYPES[case.dtype]}"
    assert launch["kernel"].startswith(f"flashmla_{name}_kernel_")
    assert ran.told[0][3] == name
    wanted = merge_params(case)
    same(decoded(launch), wanted)
    assert launch["grid"] == [min(-(-wanted["rows"] // 8), 2 * PROCESSORS), 1, 1]
    assert launch["block"] == [256, 1, 1]
    assert launch["attributes"][CLUSTER] == 1
    assert set(ran.names()) <= QUIET


@pytest.mark.parametrize("case", MERGES, ids=lambda case: case.dtype)
def test_a_run_of_a_prepared_merge_is_the_same_launch_elsewhere(cuda_12_0, case):
    ran = cuda_12_0.run(f"made = prepare_merge({case!r}); driver.cuInit(0); run_merge(made, 4096, stream=9)")
    assert [line[:3] for line in ran.told] == [[0, "", 0]] * 2
    [launch] = ran.launches()
    wanted = merge_params(case)
    addresses = {"result", "result_lse", *(name for name in wanted if re.fullmatch(r"(out|lse)_\d+", name))}
    same(decoded(launch), {name: value + 4096 * (name in addresses) for name, value in wanted.items()})
    assert launch["stream"] == 9
    names = ran.names()
    *_, behind = (names[at + 1 :] for at, name in enumerate(names) if name == "cuInit")
    assert behind == ["cuCtxGetCurrent", "cuCtxPushCurrent_v2", "cuLaunchKernelEx", "cuCtxPopCurrent_v2"]
