"""How far a result of dense_decode may be from the oracle, for logits of magnitude 1 on a CPU (compare.Tolerance)."""

from dataclasses import replace

from compare import Tolerance

# element_of_row is 8 times the norm bound: rounding errors are near Gaussian and no row has more than 1,024 elements.
# element_absolute: 8 subnormal steps of float16, whose weights and outputs both round there; the smallest normal number
# of the dtypes with 8 exponent bits, below which a backend may flush to zero.
BY_DTYPE = {  # of q
    "bfloat16": Tolerance(3e-3, 2.01 / 128, 2.4e-2, 2.0**-126),
    "float16": Tolerance(5e-4, 2.01 / 1024, 4e-3, 2.0**-21),
    # Weights of 4 significant bits, whose largest error is 2^-4 of one, and sums of 14 bits. So are logits: each of the
    # d_qk / 32 steps of one takes up to 2^-13 of the sum so far, which grows to it. What was measured of out is 2.8e-2,
    # of a logit of 9 it is 2.7e-3, of one of 51 it is 6.3e-2.
    "fp8 products": Tolerance(4e-2, 2.01 / 16, 3.2e-1, 2.0**-126, lse_absolute=3e-3, lse_relative=2.5e-3, logit=3e-3),
    "float32": Tolerance(1e-5, 1e-5, 8e-5, 2.0**-126),
}
# Of a cache of codes with one scale, whose weights are float16 on a GPU.
BY_DTYPE["bfloat16, codes"] = replace(BY_DTYPE["bfloat16"], element_absolute=BY_DTYPE["float16"].element_absolute)
