"""What a dense_decode variant costs of an SM: shared memory, registers. Plain arithmetic, needs no GPU and no DSL."""

from __future__ import annotations

from .variants import Variant

SHARED_BYTES_LIMIT = 232_448  # dynamic shared memory a block may use on sm_90
REGISTERS_AT_ENTRY = 168  # a thread of a 384-thread block whose launch bounds ask for one block an SM
UNIT, ROWS, ELEMENT = 64, 64, 2  # tokens worked on as one, query rows of a block, bytes
SLICE = 64  # columns of a slice: 128 bytes, one row of the swizzle
CURSOR = 8  # words of a loader's cursor
PLACE = 2 * (8 + 3 * 4) + 2 * 4  # bytes that say where a tile's rows go, and how far they attend in a shard


def slot_slices(v: Variant) -> int:
    """Slices of a slot: the latent part, and one for P, which is the RoPE part's own where there is one."""
    return v.d_v // SLICE + 1


def rope_slices(v: Variant) -> int:
    return (v.d_qk - v.d_v) // SLICE


def q_tail_steps(v: Variant) -> int:
    """k-steps of Q's latent part that stay in shared memory."""
    return v.d_v // 16 - v.q_steps_in_registers


def shared_bytes(v: Variant) -> int:
    """Barriers, cursors, scales and the like, the KV slots, and the part of Q that is not in registers."""
    header = 8 * (5 * v.slots + 2) + PLACE + 4 * 2 * CURSOR + 4 * ROWS * v.slots
    kv = ELEMENT * UNIT * SLICE * slot_slices(v) * v.slots
    q = ELEMENT * ROWS * (SLICE * rope_slices(v) + 16 * q_tail_steps(v))
    return -(-header // 1024) * 1024 + kv + q


def registers(v: Variant) -> int:
    """Registers of one thread of each of the three warpgroups: setmaxnreg moves them, it cannot make any."""
    qk, pv = v.registers
    return qk + 2 * pv


def q_registers(v: Variant) -> int:
    """Registers of Q in a thread of the QK warpgroup: a k-step of 64 x 16 two-byte values over 128 threads is 4."""
    return 4 * v.q_steps_in_registers


def fits(v: Variant) -> bool:
    if v.operation != "dense_decode":
        return True
    accumulators = ROWS * UNIT // 128
    return (
        shared_bytes(v) <= SHARED_BYTES_LIMIT
        and registers(v) <= 3 * REGISTERS_AT_ENTRY
        and all(r % 8 == 0 for r in v.registers)
        and q_registers(v) + accumulators < v.registers[0]
        and ROWS * v.d_v // 2 // 128 < v.registers[1]
        and v.cluster in (1, 2)
        and v.d_v % (2 * SLICE) == 0
        and rope_slices(v) in (0, 1)
        and q_tail_steps(v) >= 0
    )
