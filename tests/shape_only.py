"""Calls on tensors that exist by their shapes only, for whatever looks at shapes and addresses and not at elements."""

from __future__ import annotations

import copy

import c_abi

CPU, CUDA = 1, 2  # DLPack's device types
SCRATCH = {"workspace": 100 << 40, "buffer": 101 << 40}  # addresses


def addresses(*names: str) -> dict[str, int]:
    """A terabyte each, so that no tensor reaches into the next; 64-byte aligned, like an allocator's."""
    return {name: (number + 1) << 40 for number, name in enumerate(names)}


def give_scratch(call: c_abi.CCall) -> int:
    """Asks for the size of the scratch and gives as much; the status."""
    scratch = c_abi.scratch_field(call.operation)
    status, size = call.size() if scratch else (0, 0)
    if scratch and status == 0:
        call.give_scratch(SCRATCH[scratch], size)
    return status


def run(call: c_abi.CCall, *outputs) -> int:
    """Runs it with as much scratch as it wants: the first status that is a failure."""
    return give_scratch(call) or call.run(*outputs)


def moved(call: c_abi.CCall, by: int, **fields) -> c_abi.CCall:
    """The call with all its memory `by` bytes further, and with these fields."""
    found = copy.deepcopy(call.tensors)
    for tensor in c_abi.CCall(call.operation, found).every_tensor():
        tensor.data += by
    scratch = {name: call.fields[name] + by for name in SCRATCH if name in call.fields}
    return c_abi.CCall(call.operation, found, call.fields | scratch | fields)
