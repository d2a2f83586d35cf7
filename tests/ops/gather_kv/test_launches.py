"""What the readers ask the driver to launch, on a stub of CUDA 12.0."""

from __future__ import annotations

import pytest

from dsl_kernels.read_kv.params import BLOCKS
from ops.gather_kv.calls import DTYPES, ReadCase
from ops.gather_kv.shape_only import ADDRESSES
from stub_driver.launches import CLUSTER, PROCESSORS, QUIET, decoded, same


def wanted_params(case: ReadCase, *, gathers: bool) -> dict:
    """Parameters of a call by shape_only.read_call, whose tensors are compact."""
    fmt, width = case.format, DTYPES[case.dtype].itemsize
    row_bytes = fmt.quantized + 2 * (fmt.columns - fmt.quantized) if fmt else width * case.d_qk
    found = {
        "pages": ADDRESSES["kv_cache"],
        "out": ADDRESSES["out"],
        "out_step": width * case.columns,
        "block_step": case.page_size * (fmt.token_bytes if fmt else row_bytes),
        "row_step": row_bytes if not fmt or fmt.split else fmt.token_bytes,
        "num_blocks": case.num_blocks,
        "page_size": case.page_size,
        "num_tokens": case.num_tokens,
        "gathers": int(gathers),
        "copied": int(fmt is None),
        "row_bytes": width * case.columns,
        "columns": case.columns,
        "dtype": list(DTYPES).index(case.dtype),
    }
    if gathers:
        found |= {
            "block_table": ADDRESSES["block_table"],
            "cu_seqlens": ADDRESSES["cu_seqlens"],
            "seq_starts": ADDRESSES["seq_starts"] if case.starts is not None else 0,
            "block_table_stride": case.max_blocks,
            "cu_seqlens_stride": 1,
            "max_blocks": case.max_blocks,
            "batch": len(case.lengths),
        }
    if fmt:
        wide = fmt.scale != "e8m0"
        found |= {
            "scales_at": case.page_size * row_bytes if fmt.split else fmt.quantized,
            "scales_step": fmt.tiles * (4 if wide else 1) + fmt.padding if fmt.split else fmt.token_bytes,
            "quantized": fmt.quantized,
            "rope_at": fmt.quantized + (0 if fmt.split else 4 * fmt.tiles),
            "tile_shift": {32: 1, 64: 2, 128: 3}[fmt.tile],
            "byte_scales": int(not wide),
        }
    return found


CASES = [
    ReadCase("bf16", "float16", d_qk=1088),
    ReadCase("v32", lengths=(5, 7), starts=(1, 2)),
    ReadCase("v32_nope", "float32", page_size=64, lengths=(100, 0, 60)),
    ReadCase("model1", "float16", page_size=256, num_blocks=300, max_blocks=100, lengths=(20_000, 5, 40_000)),
    ReadCase("v41", page_size=64, num_blocks=9, lengths=(1, 2)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kv_format)
@pytest.mark.parametrize("operation", ["gather_kv", "dequantize_kv"])
def test_reading_is_one_launch(cuda_12_0, case, operation):
    fitting = case if operation == "gather_kv" else case.but(num_blocks=1000, page_size=64)
    ran = cuda_12_0.run(f"read({fitting!r}, {operation!r})")
    assert ran.told == [[0, "", 0, "read_kv"]]
    [launch] = ran.launches()
    assert launch["kernel"].startswith("flashmla_read_kv_kernel_")
    same(decoded(launch), wanted_params(fitting, gathers=operation == "gather_kv"))
    assert launch["grid"] == [min(-(-case.num_tokens // 4), BLOCKS * PROCESSORS), 1, 1]
    assert launch["block"] == [128, 1, 1]
    assert launch["attributes"][CLUSTER] == 1
    assert set(ran.names()) <= QUIET


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kv_format)
def test_a_run_of_a_prepared_call_is_the_same_launch_elsewhere(cuda_12_0, case):
    ran = cuda_12_0.run(f"made = prepare_read({case!r}); driver.cuInit(0); run_read(made, 4096, stream=9)")
    assert [line[:3] for line in ran.told] == [[0, "", 0]] * 2
    [launch] = ran.launches()
    addresses = {"pages", "out", "block_table", "cu_seqlens", *(["seq_starts"] if case.starts else [])}
    wanted = wanted_params(case, gathers=True)
    same(decoded(launch), {name: value + 4096 * (name in addresses) for name, value in wanted.items()})
    assert launch["stream"] == 9
