"""The kernel of check_sparse_decode."""

from __future__ import annotations

from dsl_kernels.core.finding_params import CheckerVariant
from dsl_kernels.core.targets import HOPPER


class Variant(CheckerVariant):
    pass


VARIANTS = (Variant(HOPPER),)
