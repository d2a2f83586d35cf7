"""Element types of core.variant.Elements, as the DSL has them."""

from cutlass import BFloat16, Float16, Float32

DTYPES = {"bfloat16": BFloat16, "float16": Float16, "float32": Float32}
