"""How far a result of merge_states may be from the oracle."""

from compare import Tolerance

# The parts are what they are, so an element carries float32 rounding of a sum whose terms may cancel, and one rounding
# at the end.
BY_DTYPE = {  # of out
    "bfloat16": Tolerance(3e-3, 1.01 / 256, 1e-4, 2.0**-126),
    "float16": Tolerance(5e-4, 1.01 / 2048, 1e-4, 2.0**-23),
    "float32": Tolerance(1e-5, 1e-5, 1e-4, 2.0**-126),
}
