"""What a dense_decode variant costs of an SM: shared memory, registers. Plain arithmetic, needs no GPU and no DSL."""

from __future__ import annotations

from .variants import Variant

SHARED_BYTES_LIMIT = 232_448  # dynamic shared memory a block may use on sm_90
REGISTERS_AT_ENTRY = 168  # a thread of a 384-thread block whose launch bounds ask for one block an SM
D_QK, D_V, PAGE, ROWS, ELEMENT = 576, 512, 64, 64, 2


def shared_bytes(v: Variant) -> int:
    """Barriers, cursors and scales (one KB), the KV slots, and the part of Q that is not in registers."""
    q_tail_steps = D_V // 16 - v.q_steps_in_registers
    header = 8 * (5 * v.slots + 2) + 4 * 12 + 4 * ROWS * v.slots
    return -(-header // 1024) * 1024 + ELEMENT * (v.slots * PAGE * D_QK + ROWS * 64 + ROWS * 16 * q_tail_steps)


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
    accumulators = ROWS * PAGE // 128
    return (
        shared_bytes(v) <= SHARED_BYTES_LIMIT
        and registers(v) <= 3 * REGISTERS_AT_ENTRY
        and all(r % 8 == 0 for r in v.registers)
        and q_registers(v) + accumulators < v.registers[0]
        and ROWS * D_V // 2 // 128 < v.registers[1]
        and v.cluster in (1, 2)
    )
