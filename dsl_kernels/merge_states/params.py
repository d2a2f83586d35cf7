"""Parameters of merge_states: see core/params.py."""

from dsl_kernels.core.params import Param

MAX_STATES = 16  # separate parts
CONSTANTS = {"MAX_STATES": MAX_STATES}

_AXES = (("b", "requests"), ("s", "query tokens"), ("h", "heads"))

PARAMS = (
    *(Param(f"out_{i}", "const void*", f"rows of part {i}", 16, "out") for i in range(MAX_STATES)),
    *(Param(f"lse_{i}", "const float*", f"log-sum-exp of part {i}") for i in range(MAX_STATES)),
    *(
        Param(f"{what}_{i}_stride_{axis}", "int64_t", f"elements between {meaning}")
        for i in range(MAX_STATES)
        for what in ("out", "lse")
        for axis, meaning in _AXES
    ),
    Param("result", "void*", "merged rows, in the kernel's dtype or another", 16, "out"),
    Param("result_lse", "float*", "merged log-sum-exp, or null"),
    *(
        Param(f"{what}_stride_{axis}", "int64_t", f"elements between {meaning}")
        for what in ("result", "result_lse")
        for axis, meaning in _AXES
    ),
    Param("out_state_stride", "int64_t", "stacked: elements between parts"),
    Param("lse_state_stride", "int64_t", "stacked: elements between parts"),
    Param("num_states", "int32_t", "parts"),
    Param("stacked", "int32_t", "1: part 0 is listed alone, the others follow it by the strides above"),
    Param("rows", "int32_t", "rows of a part: batch * s_q * h_q"),
    Param("s_q", "int32_t", "query tokens of a request"),
    Param("h_q", "int32_t", "heads"),
    Param("chunks", "int32_t", "columns / 8"),
    Param("result_dtype", "int32_t", "of result: 0 bfloat16, 1 float16, 2 float32"),
    Param("to_log2", "float", "what a log-sum-exp is multiplied by to be of base 2"),
    Param("lse_factor", "float", "what a base-2 logarithm is multiplied by: ln 2, or 1"),
    Param("empty_lse", "float", "log-sum-exp of a row without parts"),
)
