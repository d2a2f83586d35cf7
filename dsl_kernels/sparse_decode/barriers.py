"""The barriers of sparse_decode, by its own table (barrier_table.py)."""

from dsl_kernels.dense_decode.barriers import Barriers

from .barrier_table import barriers


class GatherBarriers(Barriers):
    def __init__(self, slots, cluster, copies_arrive):
        super().__init__(slots, cluster)
        self.table = {barrier.name: barrier for barrier in barriers(copies_arrive)}

    def arrivals(self, barrier):
        return super().arrivals(self.table[barrier.name])
