"""Hardware barrier numbers (bar.sync); 0 belongs to sync_threads."""

from enum import IntEnum


class NamedBarrier(IntEnum):
    QK = 1
    PV_LEFT = 2
    PV_RIGHT = 3
