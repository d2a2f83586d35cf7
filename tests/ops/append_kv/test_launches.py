"""What the writers ask the driver to launch, on a stub of CUDA 12.0."""

from __future__ import annotations

import pytest

from dsl_kernels.write_kv.params import BLOCKS, CONSTANTS, DISTINCT, MARK, MARKED, SEARCH
from ops.append_kv.calls import ROPE_COLUMNS, WriteCase
from ops.append_kv.shape_only import ADDRESSES
from stub_driver.launches import CLUSTER, PROCESSORS, QUIET, decoded, same

MOST_SEARCHED = CONSTANTS["WRITE_MOST_SEARCHED"]


def wanted_params(case: WriteCase, *, appends: bool) -> dict:
    """Parameters of a call by shape_only.write_call, whose tensors are compact."""
    border = case.columns - ROPE_COLUMNS if case.split else case.columns
    fmt = case.format
    row_bytes = fmt.quantized + 2 * (fmt.columns - fmt.quantized) if fmt else 2 * case.d_qk
    row_step = row_bytes if not fmt or fmt.split else fmt.token_bytes
    found = {
        "pages": ADDRESSES["cache"],
        "latent": ADDRESSES["latent"],
        "rope": ADDRESSES["rope"] if case.split else 0,
        "slots": ADDRESSES["slot_mapping"] if appends else 0,
        "latent_step": 2 * border,
        "num_slots": case.num_blocks * case.page_size,
        "block_step": case.page_size * (fmt.token_bytes if fmt else row_bytes),
        "row_step": row_step,
        "page_size": case.page_size,
        "num_tokens": case.num_tokens,
        "latent_bytes": 2 * border,
        "given_bytes": 2 * case.columns,
        "copied": int(fmt is None),
        "float16": int(case.dtype == "float16"),
        "columns": case.columns,
    }
    if appends:
        found |= {"slots_step": 4 if case.slot_dtype == "int32" else 8, "wide_slots": int(case.slot_dtype == "int64")}
    if case.split:
        found["rope_step"] = 2 * ROPE_COLUMNS
    if fmt:
        wide = fmt.scale != "e8m0"
        found |= {
            "scales_at": case.page_size * row_bytes if fmt.split else fmt.quantized,
            "scales_step": fmt.tiles * (4 if wide else 1) + fmt.padding if fmt.split else fmt.token_bytes,
            "quantized": fmt.quantized,
            "rope_at": fmt.quantized + (0 if fmt.split else 4 * fmt.tiles),
            "tile_shift": {32: 1, 64: 2, 128: 3}[fmt.tile],
            "byte_scales": int(not wide),
            "unrounded": int(case.unrounded),
        }
    return found


CASES = [
    WriteCase("bf16", "float16", slot_dtype="int32", d_qk=1088),
    WriteCase("bf16", split=False, d_qk=72, num_tokens=100_000, num_blocks=2**22, page_size=2**10),
    WriteCase("v32", unrounded=True, num_tokens=128, num_blocks=1000, page_size=64),
    WriteCase("v32_nope", "float16", num_tokens=MOST_SEARCHED),
    WriteCase("model1", num_tokens=MOST_SEARCHED + 1, page_size=256),
    WriteCase("v41", num_tokens=65_536, num_blocks=2000, page_size=64, split=False),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kv_format}-{case.num_tokens}")
def test_tokens_are_one_launch_or_two(cuda_12_0, case):
    ran = cuda_12_0.run(f"write({case!r})")
    assert ran.told == [[0, "", 0, "write_kv"]]
    launches = ran.launches()
    manners = [SEARCH] if case.num_tokens <= MOST_SEARCHED else [MARK, MARKED]
    assert [decoded(launch)["manner"] for launch in launches] == manners
    for launch in launches:
        assert launch["kernel"].startswith("flashmla_write_kv_kernel_")
        same(decoded(launch), wanted_params(case, appends=True))
        a_block = 128 if decoded(launch)["manner"] == MARK else 4  # tokens
        assert launch["grid"] == [min(-(-case.num_tokens // a_block), BLOCKS * PROCESSORS), 1, 1]
        assert launch["block"] == [128, 1, 1]
        assert launch["attributes"][CLUSTER] == 1
    assert set(ran.names()) <= QUIET


@pytest.mark.parametrize("case", CASES[2:], ids=lambda case: f"{case.kv_format}-{case.num_tokens}")
def test_quantising_is_one_launch(cuda_12_0, case):
    roomy = case.but(num_blocks=2000, page_size=64)
    ran = cuda_12_0.run(f"write({roomy!r}, 'quantize_kv')")
    assert ran.told == [[0, "", 0, "write_kv"]]
    [launch] = ran.launches()
    same(decoded(launch), wanted_params(roomy, appends=False) | {"manner": DISTINCT})


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kv_format}-{case.num_tokens}")
def test_a_run_of_a_prepared_call_is_the_same_launch_elsewhere(cuda_12_0, case):
    ran = cuda_12_0.run(f"made = prepare_write({case!r}); driver.cuInit(0); run_write(made, 4096, stream=9)")
    assert [line[:3] for line in ran.told] == [[0, "", 0]] * 2
    addresses = {"pages", "latent", "slots", *(["rope"] if case.split else [])}
    for launch in ran.launches():
        wanted = wanted_params(case, appends=True)
        same(decoded(launch), {name: value + 4096 * (name in addresses) for name, value in wanted.items()})
        assert launch["stream"] == 9


def test_float32_is_quantised_on_the_cpu_alone(cuda_12_0):
    ran = cuda_12_0.run("write(WriteCase('v32', 'float32')); write(WriteCase('bf16', 'float32'))")
    (status, sentence, *_), (copied, *_) = ran.told
    assert (status, copied) == (200, 0)
    assert sentence == 'latent.dtype is float32; supported on CUDA in format "v32" are bfloat16 and float16'
