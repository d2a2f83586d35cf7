"""Batch-invariant calls: the rows of a piece, in the registers of the PV warpgroups, are folded with those that the CTA
carried so far and stored in a slot, to be carried on or folded by the kernel of that name.

core/slots.py says where rows of a slot lie. Each half writes log-sum-exps of its own, the first lane of a quad those
of the quad's rows.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64, const_expr

from dsl_kernels.core import schedule, sinks, slots
from dsl_kernels.core.folding import NEUTRAL, folded, weigh
from dsl_kernels.core.fragments import row_of
from dsl_kernels.core.schedule_params import FACTS, LOG_MAX_SLOTS, STRIPE
from dsl_kernels.core.threads import behind, opaque, thread_now

from . import invariant, work
from .epilogue import global_tensor, quad_sum, shared_tensor

STAGED_BYTES = 16 * 128  # a block of 8 columns in shared memory, 16 bytes a thread
STORED_BYTES = 4 * slots.BLOCK  # of a stripe of it in a slot
AT_ONCE = 2  # blocks of columns that a thread waits for


def any_row_counts(kernel):
    """Whether this warp's stripe is in slots: a block has few rows where a KV head has few query heads."""
    return cute.arch.vote_any_sync(row_of(thread_now()) < kernel.a.block_heads * kernel.a.block_tokens)


@cute.jit
def fold_rows(kernel, destination, half, rO: cute.Tensor, inverse, lse: cute.Tensor, stage: cute.Pointer):
    """Normalises the rows and folds the carries that the destination says into them; `lse`: of both rows of this
    thread, in and out. Empty rows become NEUTRAL. stage: shared memory of this half, which serves if there is a carry.
    """
    blocks: cutlass.Constexpr = kernel.half // 8
    values = cute.make_tensor(rO.iterator, cute.make_layout((4, blocks)))
    for v in cutlass.range_constexpr(blocks):
        for i in cutlass.range_constexpr(4):
            values[i, v] = values[i, v] * inverse[i // 2]
    both = lse_of(lse, 0), lse_of(lse, 1)
    if cute.arch.vote_any_sync(lse[0] == -Float32.inf):
        for v in cutlass.range_constexpr(blocks):
            for i in cutlass.range_constexpr(4):
                values[i, v] = Float32(NEUTRAL) if both[i // 2] == -Float32.inf else values[i, v]
    kernel.bars.sync_half(half)  # nobody's product reads the stage any more
    if not any_row_counts(kernel):
        destination = Int32(0)
    for source in cutlass.range(2, unroll=1):
        if invariant.has(destination >> source, invariant.FOLDS_NODE):
            fold_slot(kernel, 2 * invariant.part_of(destination) + source, half, values, lse, stage)


@cute.jit
def fold_slot(kernel, slot, half, values: cute.Tensor, lse: cute.Tensor, stage: cute.Pointer):
    """The rows of a slot come first, then `values`. They come by way of shared memory, where each thread has a ring for
    its own: there are no registers for loads under way.
    """
    where, facts = slot_of(kernel, slot, half)
    row = row_of(thread_now() & 31)
    own_low, own_high = lse_of(lse, 0), lse_of(lse, 1)
    low = weigh(facts[FACTS * row], own_low)
    high = weigh(facts[FACTS * (row + 8)], own_high)
    lse[0] = high[2] if (thread_now() & 1) != 0 else low[2]
    blocks: cutlass.Constexpr = cute.size(values, mode=[1])
    room: cutlass.Constexpr = blocks // 2  # float32 in the place of two-byte elements
    thread = behind(thread_now(), slot) if kernel.any_page else thread_now()  # or it takes a register outside
    own = opaque(stage.toint() + 16 * thread)
    for v in cutlass.range_constexpr(room):
        start_copy(own, where, v, v)
        if const_expr(v % AT_ONCE == AT_ONCE - 1):
            cute.arch.cp_async_commit_group()
    carried = cute.make_rmem_tensor((4,), Float32)
    for v in cutlass.range_constexpr(blocks):
        if const_expr(v % AT_ONCE == 0):
            cute.arch.cp_async_wait_group(room // AT_ONCE - 1)
        cute.autovec_copy(shared_tensor(Float32, own + (v % room) * STAGED_BYTES, 4, 16), carried)
        for i in cutlass.range_constexpr(4):
            of_c, of_x, _ = (low, high)[i // 2]
            values[i, v] = folded(carried[i], of_c, values[i, v], of_x)
        if const_expr(v % AT_ONCE == AT_ONCE - 1):
            for w in cutlass.range_constexpr(v + 1 - AT_ONCE, v + 1):
                if const_expr(w + room < blocks):
                    start_copy(own, where, w, w + room)
            cute.arch.cp_async_commit_group()


def start_copy(own, where, to, block):
    """16 bytes of a block to this thread's place `to`."""
    cute.arch.inline_ptx(
        f"cp.async.cg.shared.global [{{$r0}} + {to * STAGED_BYTES}], [{{$r1}} + {block * STORED_BYTES}], 16;",
        read_only_args=[Int32(own), Int64(where)],
    )


def lse_of(lse, r):
    return cute.arch.shuffle_sync(lse[0], (thread_now() & 28) + r)


@cute.jit
def store_slot(kernel, destination, half, rO: cute.Tensor, lse: cute.Tensor):
    """The rows and their log-sum-exps to the slot of a destination."""
    if any_row_counts(kernel):
        thread = thread_now()
        where, facts = slot_of(kernel, destination & ((1 << LOG_MAX_SLOTS) - 1), half)
        values = cute.make_tensor(rO.iterator, cute.make_layout((4, kernel.half // 8)))
        for v in cutlass.range_constexpr(kernel.half // 8):
            cute.autovec_copy(values[None, v], global_tensor(Float32, where + v * STORED_BYTES, 4, 16))
        cute.arch.sync_warp()  # the quad has read what it carried
        if (thread & 3) < 2:
            facts[FACTS * (row_of(thread & 31) + 8 * (thread & 1))] = lse[0]
        cute.arch.sync_warp()  # the quad reads it again


@cute.jit
def finish_piece(kernel, row_max: cute.Tensor, row_sum: cute.Tensor, sInverse: cute.Tensor, sLse: cute.Tensor):
    """As finish_rows, but the base-2 log-sum-exps are for the PV warpgroups, which fold them."""
    thread = thread_now()
    for r in cutlass.range_constexpr(2):
        total = quad_sum(row_sum[r])
        if (thread & 3) == 0:
            row = row_of(thread) + 8 * r
            empty = total == 0.0
            sInverse[row] = 0.0 if empty else cute.arch.rcp_approx(total)
            lse2 = row_max[r] * kernel.a.scale_log2 + cute.math.log2(total)
            sLse[row] = -Float32.inf if empty else lse2


@cute.jit
def store_lses(kernel, record, lse: cute.Tensor):
    """To the output."""
    thread = thread_now()
    if (thread & 3) < 2:
        store_lse(kernel, record, row_of(thread) + 8 * (thread & 1), lse[0])


@cute.jit
def store_lse(kernel, record, row, lse2):
    a, sWork, wanted = kernel.a, kernel.smem.sWork, kernel.a.lse.toint() != 0
    if wanted:
        request, head, tile_of_head = schedule.locate_tile(a, sWork[work.TILE, record])
        block = tile_of_head * kernel.blocks + kernel.rank
        end = schedule.first_token(a, block) + work.tokens_of(kernel, record)
        valid, token, h = schedule.locate_row(a, block, row, end)
        if valid:
            token, h = token + sWork[work.QUERY, record], h + head * a.group
            dst = cute.make_tensor(a.lse + schedule.lse_offset(a, request, token, h), cute.make_layout(1))
            dst[0] = lse2 * a.lse_factor if lse2 != -Float32.inf else a.empty_lse


@cute.jit
def final_factors(kernel, record, lse: cute.Tensor):
    """What turns this thread's folded rows into those of the output: an empty one is 0.0 there, and of others the sink
    takes its share. `lse` is used up.
    """
    thread, has_sink = thread_now(), schedule.given(kernel.a.sink)
    factor = Float32(-1.0) if lse[0] == -Float32.inf else Float32(1.0)
    if has_sink and (factor > 0.0):
        row = row_of(thread) + 8 * (thread & 1)
        factor = sinks.share(kernel.a, head_of(kernel, record, row), lse[0])
    lse[0] = factor
    cute.arch.sync_warp()
    return lse_of(lse, 0), lse_of(lse, 1)


@cute.jit
def head_of(kernel, record, row):
    """Query head of a row of the block; 0 where there is none."""
    a = kernel.a
    _, head, tile_of_head = schedule.locate_tile(a, kernel.smem.sWork[work.TILE, record])
    block = tile_of_head * kernel.blocks + kernel.rank
    end = schedule.first_token(a, block) + work.tokens_of(kernel, record)
    valid, _, h = schedule.locate_row(a, block, row, end)
    return h + head * a.group if valid else Int32(0)


@cute.jit
def slot_of(kernel, slot, half):
    """Of this warp's stripe of a slot: where this thread's first block of a half lies; and the log-sum-exps of that
    half, FACTS apart.
    """
    thread = behind(thread_now(), slot)
    block, row = opaque(slot) * kernel.blocks + kernel.rank, (thread >> 5) * STRIPE
    where, facts = slots.locate(kernel.a, block, opaque(half), row, thread & 31, kernel.d_v)
    return where, global_tensor(Float32, facts, FACTS * STRIPE, 4)
