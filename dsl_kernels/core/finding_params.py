"""What the checking mode looks for, the records in which kernels tell what they find, and what is alike in their
configurations. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass

from .params import Param
from .variant import Variant

# fm_value of the C core.
LENGTH, OFFSET, ORDER, COUNT, PAGE, GLOBAL_LENGTH, TOPK_LENGTH, EXTRA_TOPK_LENGTH, INDEX, EXTRA_INDEX = range(10)
VALUES = 10
NO_SLOT = -1  # the usual mark of an index that selects nothing, which is not told: FM_NO_SLOT
# 64-bit words of fm_finding.
PLACE, TOKEN, VALUE, LIMIT, FOUND, CLAIMED, READY = range(7)
REPORTS = 8  # the host's, in a cache line of its own
FINDING_BYTES = 128
CONSTANTS = {"CHECKED_VALUES": VALUES, "FINDING_BYTES": FINDING_BYTES}
FINDINGS = Param("findings", "int64_t*", "of the device: VALUES records of FINDING_BYTES, in memory of the host", 16)


@dataclass(frozen=True)
class CheckerVariant(Variant):
    @property
    def threads(self) -> int:
        return 256
