"""The barriers of sparse_decode: those of dense_decode, but that every thread of PV says that an item has come.

Where the copies themselves say it for a thread (rows that need no conversion), nothing that the thread wrote is told
with them: those that write which rows are attended say so for themselves, one thread a warp of the left half.
"""

from dsl_kernels.dense_decode.barriers import Barriers

LOADERS, WRITERS = 256, 4  # threads


class GatherBarriers(Barriers):
    def __init__(self, slots, cluster, copies_arrive):
        super().__init__(slots, cluster)
        self.loaders = LOADERS + WRITERS * copies_arrive

    def arrivals(self, barrier):
        return self.loaders if barrier.name == "full" else super().arrivals(barrier)
