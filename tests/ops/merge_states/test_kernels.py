"""The lines of merge_states in the kernel table, and what was compiled of them."""

import re

import pytest

from aot import cubin, paths
from dsl_kernels.core.variant import ELEMENT_BYTES
from dsl_kernels.variants import FAMILIES

PARAMETERS_AT = 0x210  # in constant bank 0 on sm_90


def test_there_is_a_kernel_for_every_dtype():
    variants = FAMILIES["merge_states"].variants
    assert {variant.elements.out for variant in variants} == set(ELEMENT_BYTES)
    assert [variant.name for variant in variants] == ["merge_states_bf16", "merge_states_fp16", "merge_states_fp32"]


def compared(kernel: str, name: str) -> list[str]:
    """The comparisons of a compiled kernel with a parameter that it loads for each of them."""
    image = (paths.GENERATED / f"{kernel}.cubin").read_bytes()
    offset = cubin.offsets(image)[[param.name for param in FAMILIES["merge_states"].params].index(name)]
    lines = cubin.sass(image, cubin.disassembler()).splitlines()
    loads = re.compile(rf"\bU?LDC (U?R\d+), c\[0x0\]\[{hex(PARAMETERS_AT + offset)}\]")
    found = []
    for at, line in enumerate(lines):
        if load := loads.search(line):
            uses = re.compile(rf"\bISETP\S* .*\b{load[1]}\b")
            found += [uses.search(later)[0] for later in lines[at:] if uses.search(later)][:1]
    return found


@pytest.mark.parametrize("kernel", [variant.name for variant in FAMILIES["merge_states"].variants])
def test_a_row_one_step_beyond_the_last_is_still_beyond_it(gpu_kernels, kernel):  # noqa: ARG001 - which may skip
    """The row that a warp takes next can be beyond 2^31, since there can be 2^31 - 1: it is compared without sign."""
    if cubin.disassembler() is None:
        pytest.skip("nvdisasm is not installed (extra [test])")
    found = compared(kernel, "rows")
    assert found, "the loop over rows is not found"
    assert all(".U32" in comparison for comparison in found), found
