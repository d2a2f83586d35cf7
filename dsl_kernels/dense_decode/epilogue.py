"""Results of a tile: rows and log-sum-exps to the output, or to the partial slot of the piece."""

import cutlass
import cutlass.cute as cute
from cutlass import Float16, Float32, Int32, Int64, const_expr, min

from dsl_kernels.core import schedule
from dsl_kernels.core.fragments import row_of, store_matrices
from dsl_kernels.core.schedule_params import FACT_LEFT, FACT_LSE, FACTS, ROWS
from dsl_kernels.core.sinks import sink_of
from dsl_kernels.core.threads import thread_now

from . import work
from .descale import scale_of, scale_of_q, spoiled


@cute.jit
def finish_rows(kernel, record, row_max: cute.Tensor, row_sum: cute.Tensor, sInverse: cute.Tensor):
    """1 / row sum, for the PV warpgroups, and the log-sum-exp of the rows. `kernel`: the DenseDecode."""
    a, sWork = kernel.a, kernel.smem.sWork
    thread, slot, wanted = thread_now(), sWork[work.SLOT, record], a.lse.toint() != 0
    request, head, tile_of_head = schedule.locate_tile(a, sWork[work.TILE, record])
    block = tile_of_head * kernel.blocks + kernel.rank
    end = schedule.first_token(a, block) + work.tokens_of(kernel, record)
    has_sink = schedule.given(a.sink)
    if const_expr(kernel.one_scale):
        scale, scale_q = scale_of(a), scale_of_q(a)
    for r in cutlass.range_constexpr(2):
        total, shift = quad_sum(row_sum[r]), kernel.qk.shift(r, row_max[r])
        if (thread & 3) == 0:
            row = row_of(thread) + 8 * r
            empty = total == 0.0
            if const_expr(kernel.one_scale):
                total = spoiled(spoiled(total, scale), scale_q)
                empty = empty if row_max[r] == -Float32.inf else total == 0.0
            lse2 = shift + cute.math.log2(total)
            if has_sink and (slot < 0):
                valid, _, h = schedule.locate_row(a, block, row, end)
                if valid:
                    total += cute.math.exp2(sink_of(a, h + head * a.group) - shift, fastmath=True)
            inverse = cute.arch.rcp_approx(total)
            if const_expr(kernel.one_scale):
                inverse *= scale
            sInverse[row] = 0.0 if empty else inverse
            if slot >= 0:
                fact = (partial_row(kernel, slot) + row) * FACTS + FACT_LSE
                dst = cute.make_tensor(a.partial_facts + fact, cute.make_layout(1))
                dst[0] = -Float32.inf if empty else lse2
            elif wanted:
                valid, token, h = schedule.locate_row(a, block, row, end)
                if valid:
                    token, h = token + sWork[work.QUERY, record], h + head * a.group
                    dst = cute.make_tensor(a.lse + schedule.lse_offset(a, request, token, h), cute.make_layout(1))
                    dst[0] = a.empty_lse if empty else lse2 * a.lse_factor


@cute.jit
def quad_sum(x):
    """Of the four lanes that hold a row."""
    x = x + cute.arch.shuffle_sync_bfly(x, 1)
    return x + cute.arch.shuffle_sync_bfly(x, 2)


def partial_slot(kernel, record):
    """Where a piece's rows go, if not to the output; those of batch-invariant calls: carries.py."""
    return Int32(-1) if kernel.invariant else kernel.smem.sWork[work.SLOT, record]


def partial_row(kernel, slot):
    """Number of the first of this CTA's rows in a partial slot."""
    return (Int64(slot) * kernel.blocks + kernel.rank) * ROWS


@cute.jit
def store_rows(kernel, record, half, o_rows: cute.Tensor, inverse, stage: cute.Pointer):
    """Half of the columns of the rows, times `inverse`.

    stage: shared memory of this half, in which each warp turns round its own 16 rows. No warp of the warpgroup may
    still read it.
    """
    slot = partial_slot(kernel, record)
    if (slot < 0) and (kernel.a.out_is_float != 0):
        for r in cutlass.range_constexpr(2):
            store_floats(kernel, record, half, o_rows[r, None], inverse[r], row_of(thread_now()) + 8 * r)
    else:
        thread = thread_now()
        warp_stage = stage + cute.assume((thread >> 5) * (16 * kernel.half), divby=16 * kernel.half)
        # a lane of each half warp knows where one of the warp's rows goes
        where = row_address(kernel, record, half, ((thread >> 5) << 4) + (thread & 15), 2)
        if cute.arch.vote_any_sync(where != 0):
            if slot >= 0:
                store_two_bytes(o_rows, scale_rows(kernel, slot, half, o_rows, inverse), warp_stage, Float16, where)
            else:
                store_two_bytes(o_rows, inverse, warp_stage, kernel.out_dtype, where)


@cute.jit
def row_address(kernel, record, half, row, size):
    """Where this half of a row begins, bytes, of elements of `size` bytes; 0: the row is not stored."""
    a, sWork = kernel.a, kernel.smem.sWork
    slot = partial_slot(kernel, record)
    request, head, tile_of_head = schedule.locate_tile(a, sWork[work.TILE, record])
    block = tile_of_head * kernel.blocks + kernel.rank
    end = schedule.first_token(a, block) + work.tokens_of(kernel, record)
    valid, token, h = schedule.locate_row(a, block, row, end)
    base = schedule.address(a.out)
    offset = schedule.out_offset(a, request, token + sWork[work.QUERY, record], h + head * a.group)
    if slot >= 0:
        base, offset = schedule.address(a.partial), (partial_row(kernel, slot) + row) * kernel.d_v
    where = base + (offset + half * kernel.half) * size
    return where if valid else Int64(0)


@cute.jit
def scale_rows(kernel, slot, half, o_rows: cute.Tensor, inverse):
    """What both rows of this thread are multiplied by for a partial result: `inverse` and the power of two that brings
    the largest of the lanes' products with it to [1, 2), of sums beyond 2^126 to less than 8. Stores the power.
    """
    thread = thread_now()
    tops = [inverse[r] * _largest([o_rows[r, c] for c in range(cute.size(o_rows, mode=[1]))]) for r in (0, 1)]
    for lanes in (1, 2):
        tops = [cute.arch.fmax(top, cute.arch.shuffle_sync_bfly(top, lanes), abs=True) for top in tops]
    factors = []
    for r in cutlass.range_constexpr(2):
        power = _bits(tops[r]) & 0x7F800000  # largest power of two that is not larger; 0 stands for a subnormal one
        # so that inverse / power is a normal number, and 1 / power one, too
        power = min(power, min(_bits(inverse[r]) & 0x7F800000, 128 << 23) + (125 << 23))
        if (thread & 3) == 0:
            where = (partial_row(kernel, slot) + row_of(thread) + 8 * r) * FACTS + FACT_LEFT + half
            fact = cute.make_tensor(kernel.a.partial_facts + where, cute.make_layout(1))
            fact[0] = _float(power)
        factors.append(inverse[r] * _float(0x7F000000 - power))
    return factors


def _largest(values):
    """The largest magnitude, with any sign. Four chains: a tree takes registers that there are not."""
    tops = values[:4]
    for i, value in enumerate(values[4:]):
        tops[i % 4] = cute.arch.fmax(tops[i % 4], value, abs=True)
    return cute.arch.fmax(
        cute.arch.fmax(tops[0], tops[1], abs=True), cute.arch.fmax(tops[2], tops[3], abs=True), abs=True
    )


def _bits(x):
    return cute.arch.inline_ptx("mov.b32 {$w0}, {$r0};", write_only_types=[Int32], read_only_args=[Float32(x)])


def _float(bits):
    return cute.arch.inline_ptx("mov.b32 {$w0}, {$r0};", write_only_types=[Float32], read_only_args=[Int32(bits)])


GROUP = 8  # chunks of 16 bytes of a row: 128 bytes, of which a warp stores those of four rows at once


@cute.jit
def row_addresses(where):
    """Of the rows that this lane stores chunks of: 4 j + lane // 8. where: the address of row lane % 16; 0: it is not
    stored.
    """
    low, high = Int32(where & 0xFFFFFFFF), Int32(where >> 32)
    to = cute.make_rmem_tensor((4,), Int64)
    for j in cutlass.range_constexpr(4):
        row = 4 * j + ((thread_now() & 31) >> 3)
        to_low, to_high = cute.arch.shuffle_sync(low, row), cute.arch.shuffle_sync(high, row)
        to[j] = (Int64(to_high) << 32) | (Int64(to_low) & 0xFFFFFFFF)
    return to


@cute.jit
def store_two_bytes(o_rows: cute.Tensor, factors, stage: cute.Pointer, dtype: cutlass.Constexpr, where):
    """A warp's rows, times the factors of both of this thread, by way of shared memory, a group of chunks at a time, so
    that some warps store while others turn rows round. Chunk c of row r lies as chunk c ^ (r % 8) there: no bank
    conflicts, written or read.
    """
    chunks: cutlass.Constexpr = cute.size(o_rows, mode=[1]) // 2
    to = row_addresses(where)
    lane = thread_now() & 31
    start = stage.toint() + (lane & 15) * (16 * chunks) + (((lane >> 4) ^ (lane & 7)) << 4)
    own = stage.toint() + (lane >> 3) * (16 * chunks)
    vectors = cute.make_rmem_tensor(cute.make_layout((4, 4)), Int32)
    for first in cutlass.range_constexpr(0, chunks, GROUP):
        for c in cutlass.range_constexpr(first, first + GROUP, 2):
            words = [_packed(o_rows, r, 2 * j, factors[r], dtype) for j in (c, c + 1) for r in (0, 1)]
            store_matrices(start ^ (16 * c), words)
        cute.arch.sync_warp()
        for j in cutlass.range_constexpr(4):
            swizzled = ((lane & 7) ^ ((4 * j + (lane >> 3)) & 7)) << 4
            there = own + (4 * j * 16 * chunks + 16 * first) + swizzled
            cute.autovec_copy(shared_tensor(Int32, there, 4, 16), vectors[None, j])
        for j in cutlass.range_constexpr(4):
            if to[j] != 0:
                cute.autovec_copy(vectors[None, j], global_tensor(Int32, to[j] + 16 * (first + (lane & 7)), 4, 16))


def _packed(o_rows, r, column, factor, dtype):
    """Two neighbouring values of a row, times a factor, in one register."""
    pair = cute.make_rmem_tensor((2,), Float32)
    pair[0], pair[1] = o_rows[r, column] * factor, o_rows[r, column + 1] * factor
    packed = cute.make_rmem_tensor((2,), dtype)
    packed.store(pair.load().to(dtype))
    return cute.recast_tensor(packed, Int32)[0]


@cute.jit
def store_floats(kernel, record, half, values: cute.Tensor, factor, row):
    """This lane's quarter of half a row, times a factor, in float32."""
    where = row_address(kernel, record, half, row, 4)
    if where != 0:
        columns: cutlass.Constexpr = 4 * cute.size(values)
        dst = global_tensor(Float32, where + 8 * (thread_now() & 3), columns, 8)
        for j in cutlass.range_constexpr(columns // 8):
            pair = cute.make_rmem_tensor((2,), Float32)
            pair[0], pair[1] = values[2 * j] * factor, values[2 * j + 1] * factor
            cute.autovec_copy(pair, cute.local_tile(dst, (2,), (4 * j,)))


def global_tensor(dtype, address, size, align):
    where = cute.make_ptr(dtype, address, cute.AddressSpace.gmem, assumed_align=align)
    return cute.make_tensor(where, cute.make_layout(size))


def shared_tensor(dtype, address, size, align):
    where = cute.make_ptr(dtype, address, cute.AddressSpace.smem, assumed_align=align)
    return cute.make_tensor(where, cute.make_layout(size))
