"""Calls on tensors that exist by their shapes only, for whatever looks at shapes and addresses and not at elements."""

from __future__ import annotations

import c_abi

CPU, CUDA = 1, 2  # DLPack's device types
SCRATCH = {"workspace": 100 << 40, "buffer": 101 << 40}  # addresses


def addresses(*names: str) -> dict[str, int]:
    """A terabyte each, so that no tensor reaches into the next; 64-byte aligned, like an allocator's."""
    return {name: (number + 1) << 40 for number, name in enumerate(names)}


def run(call: c_abi.CCall, *outputs) -> int:
    """Asks for the size of the scratch, gives as much, and runs: the first status that is a failure."""
    if scratch := c_abi.scratch_field(call.operation):
        status, size = call.size()
        if status:
            return status
        call.give_scratch(SCRATCH[scratch], size)
    return call.run(*outputs)
