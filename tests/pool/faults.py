"""Faults to plant in copies of the pool's sources; the random calls must find each (test_faults.py)."""

from __future__ import annotations

from dataclasses import dataclass

from planted_faults import Edit

POOL = "libflashmla/src/pool/"
AT_ONCE, SWAPS_LATE, WORK_LATE = 0, 1, 2  # STUB_LAZY


@dataclass(frozen=True)
class PoolFault:
    name: str
    file: str
    before: str
    after: str
    lazy: int = AT_ONCE

    @property
    def edits(self) -> tuple[Edit, ...]:
        return (Edit(POOL + self.file, self.before, self.after),)


FAULTS = [
    PoolFault("a shared block is written", "append.c", "if (block->references == 1) {",
              "if (block->references >= 1) {"),
    PoolFault("an overwritten prefix stays published", "append.c",
              "if (block->published) fm_unpublish(books, *entry);", ""),
    PoolFault("the last of those that share a block copies it too", "append.c",
              "++block->appenders < block->references", "++block->appenders <= block->references"),
    PoolFault("the block left last is handed out first", "lifecycle.c",
              "fm_drop_blocks(books, sequence, sequence->head, end);",
              "for (int32_t i = sequence->head; i < end; ++i) fm_unrefer(books, fm_row_of(books, sequence)[i]);"),
    PoolFault("a matched block stays among the cached", "blocks.c",
              "if (at->references == 0) uncache_block(books, block);", ""),
    PoolFault("a cut prefix keeps the hash of the whole", "lifecycle.c",
              "sequence->chain = chain_at(books, sequence, full);", ""),
    PoolFault("a head is forgotten by swaps", "swap.c", "if (i < sequence->committed_blocks) books->host_hashes[host]",
              "if (i < sequence->head) books->host_hashes[host]"),
    PoolFault("slots of a longer step stay", "append.c",
              "for (int32_t i = slot; i < arrays->num_slots || i < arrays->shown_slots; ++i) arrays->slots[i] = -1;",
              ""),
    PoolFault("a row is shown short of its last block", "append.c",
              "fm_show_sequence(pool, sequence, before, after);",
              "fm_show_sequence(pool, sequence, before, after - 1);"),
    PoolFault("a block that a swap reads is written", "blocks.c", "fm_wait_for(books, at->busy);", "", SWAPS_LATE),
    PoolFault("what was swapped in is not waited for", "arrays.c",
              "fm_wait_for(&pool->books, sequence->arrival);", "", SWAPS_LATE),
    PoolFault("a swap does not wait for writers", "cuda_copies.c",
              "FM_DRIVER_TRY(driver, stream_wait_event, gpu->stream, gpu->used, 0);", "", WORK_LATE),
    PoolFault("layers lie over one another in a row of host_pool", "pieces.c", "in_row += in->bytes;", ""),
    PoolFault("staging in use is written", "cuda_uploads.c", "uploads->busy[uploads->buffer] = true;", "",
              WORK_LATE),
]  # fmt: skip
