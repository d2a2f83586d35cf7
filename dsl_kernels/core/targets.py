"""What kernels are compiled for, and what such a chip has. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    name: str  # as the compiler has it
    arch: int  # 10 * major + minor of the compute capability of the devices that run it
    shared_bytes: int  # most dynamic shared memory of a block
    registers: int  # 32-bit registers of an SM

    def registers_at_entry(self, threads: int) -> int:
        """Registers of a thread, where the launch bounds ask for one block of so many threads an SM."""
        return min(self.registers // threads // 8 * 8, 255)


HOPPER = Target("sm_90a", 90, shared_bytes=232_448, registers=65_536)
