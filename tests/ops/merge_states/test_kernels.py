"""The lines of merge_states in the kernel table."""

from dsl_kernels.core.variant import ELEMENT_BYTES
from dsl_kernels.variants import FAMILIES


def test_there_is_a_kernel_for_every_dtype():
    variants = FAMILIES["merge_states"].variants
    assert {variant.elements.out for variant in variants} == set(ELEMENT_BYTES)
    assert [variant.name for variant in variants] == ["merge_states_bf16", "merge_states_fp16", "merge_states_fp32"]
