"""Numbers in global memory at addresses, and their bits."""

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64


def memory(dtype, where, count, align=16):
    """Neighbours in memory, at an address."""
    return cute.make_tensor(cute.make_ptr(dtype, where, cute.AddressSpace.gmem, assumed_align=align), count)


def number_at(dtype, where):
    return memory(dtype, where, 1, dtype.width // 8)[0]


def put(dtype, where, value):
    memory(dtype, where, 1, dtype.width // 8)[0] = value


@cute.jit
def fresh_number_at(dtype: cutlass.Constexpr, where):
    """As it is in L2, whatever L1 has."""
    return cute.arch.inline_ptx(
        f"ld.relaxed.gpu.global.b{dtype.width} {{$w0}}, [{{$r0}}];",
        write_only_types=[dtype],
        read_only_args=[Int64(where)],
    )


@cute.jit
def load_fresh(where, words: cute.Tensor, scope: cutlass.Constexpr = "gpu"):
    """16 bytes as they are in L2. scope: of whom else the kernel shares them with; "sys": the host too."""
    words[0], words[1], words[2], words[3] = cute.arch.inline_ptx(
        f"ld.relaxed.{scope}.global.v4.b32 {{ {{$w0}}, {{$w1}}, {{$w2}}, {{$w3}} }}, [{{$r0}}];",
        write_only_types=[Int32] * 4,
        read_only_args=[Int64(where)],
    )


@cute.jit
def bits_of(x):
    return cute.arch.inline_ptx("mov.b32 {$w0}, {$r0};", write_only_types=[Int32], read_only_args=[Float32(x)])


@cute.jit
def float_of(bits):
    return cute.arch.inline_ptx("mov.b32 {$w0}, {$r0};", write_only_types=[Float32], read_only_args=[Int32(bits)])
