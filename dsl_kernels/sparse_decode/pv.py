"""PV of sparse_decode: rows that are not attended are zeros."""

from cutlass import Int32

from dsl_kernels.dense_decode.fed_pv import FedPV
from dsl_kernels.dense_decode.gather_pv import GatherPV


class NothingToClear:
    def remaining(self, _at, _n):
        return Int32(0)

    def clear(self, half, slot, _remaining):
        """Nothing: they are zeros already."""


class SparsePV(NothingToClear, GatherPV):
    def publish_first(self, half, warp):
        """Nothing: it is there already."""


class SparseFedPV(NothingToClear, FedPV):
    pass
